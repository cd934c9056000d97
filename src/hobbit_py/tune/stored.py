"""The file beside a model that keeps what `hobbit tune` chose for it.

It names the model's files and the lo copy with their sizes: thresholds found for one pair say nothing about another.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..atomic_file import write_atomically

SCHEMA = 2
_PART = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Tuning:
    """Thresholds, and what they cost and saved where they were measured.

    `loss` is the perplexity against exact mode on the same tokens, minus one (0.004: 0.4% worse), `loss_se` its
    standard error; `bytes_ratio` the expert bytes read, over exact mode's with the same memory.
    """

    hi_above: float
    skip_below: float
    lo_share: float
    loss: float
    loss_se: float
    bytes_ratio: float
    tokens: int
    max_loss: float
    expert_memory_bytes: int


def tuning_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit.json` beside the model; of a split model the stem without the part's number."""
    path = Path(model_path)
    return path.with_name(f"{_PART.sub('', path.name.removesuffix('.gguf'))}.hobbit.json")


def save_tuning(model_paths: Sequence[str | os.PathLike[str]], lo_path: str | os.PathLike[str], tuning: Tuning) -> Path:
    """Writes the file, whole or not at all; raises OSError."""
    path = tuning_path(model_paths[0])
    text = json.dumps(
        {"schema": SCHEMA, **_pair(model_paths, lo_path), **dataclasses.asdict(tuning)}, indent=2, allow_nan=False
    )
    write_atomically(path, lambda file: _write(file, text))
    return path


def load_tuning(model_paths: Sequence[str | os.PathLike[str]], lo_path: str | os.PathLike[str]) -> Tuning | None:
    """What was stored for this model and lo copy; None if nothing was, or something that cannot be used.

    A file that is damaged, newer or about another pair counts as absent: it is made anew by `hobbit tune`, and a model
    must not fail to load for it.
    """
    try:
        stored = json.loads(tuning_path(model_paths[0]).read_text(encoding="utf-8"))
        pair = _pair(model_paths, lo_path)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
        return None
    if any(stored.get(name) != value for name, value in pair.items()):
        return None
    return _tuning_of(stored)


def _write(file: BinaryIO, text: str) -> None:
    file.write(text.encode() + b"\n")


def _tuning_of(stored: dict[str, Any]) -> Tuning | None:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Tuning):
        value = stored.get(field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        values[field.name] = int(value) if field.name in ("tokens", "expert_memory_bytes") else float(value)
    tuning = Tuning(**values)
    in_range = 0 <= tuning.hi_above <= 1 and 0 <= tuning.skip_below <= 1 and 0 <= tuning.lo_share <= 1
    return tuning if in_range else None


def _pair(model_paths: Sequence[str | os.PathLike[str]], lo_path: str | os.PathLike[str]) -> dict[str, Any]:
    return {"model": [_identity(path) for path in model_paths], "lo": _identity(lo_path)}


def _identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(path)
    return {"name": path.name, "bytes": path.stat().st_size}
