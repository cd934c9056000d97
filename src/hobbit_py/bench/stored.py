"""The file beside a model that keeps what `hobbit bench --save` measured, for `hobbit plan`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..atomic_file import write_text_atomically
from ..stored_files import is_number, read_json
from .runs import Figures

SCHEMA = 1
_MAX_BYTES = 1 << 20  # a larger file is not ours
_PART = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class StoredBench:
    """What one invocation found: of the model in general, and of this model on that machine."""

    file_bytes: int
    """Of all parts: figures of another quantisation under the same name say nothing."""
    reuse: tuple[tuple[float, float], ...]
    """(share of the experts in memory, bytes read over bytes used) of the exact runs."""
    processor: str
    n_threads: int
    compute_s: float | None
    """Seconds of a token with every expert in memory; None if that was not measured."""


def bench_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit-bench.json` beside the model; of a split model the stem without the part's number."""
    path = Path(model_path)
    return path.with_name(f"{_PART.sub('', path.name.removesuffix('.gguf'))}.hobbit-bench.json")


def reuse_points(
    figures: Sequence[Figures], expert_bytes: int, expert_bytes_per_token: float
) -> tuple[tuple[float, float], ...]:
    """The points of the exact runs that missed something."""
    points = {
        f.expert_memory_bytes / expert_bytes: f.read_bytes_per_token / expert_bytes_per_token
        for f in figures
        if f.case.precision == "exact" and f.expert_memory_bytes and f.read_bytes_per_token
    }
    return tuple(sorted((share, read) for share, read in points.items() if 0 < share < 1))


def save_bench(model_path: str | os.PathLike[str], stored: StoredBench) -> Path:
    """Writes the file, whole or not at all; raises OSError."""
    path = bench_path(model_path)
    text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(stored)}, indent=2)
    write_text_atomically(path, text + "\n")
    return path


def load_bench(model_path: str | os.PathLike[str], file_bytes: int) -> StoredBench | None:
    """What was stored for this model; None if nothing was, or something that cannot be used."""
    try:
        fields = read_json(bench_path(model_path), _MAX_BYTES)
        if fields.pop("schema") != SCHEMA:
            return None
        stored = StoredBench(**{**fields, "reuse": tuple((x, y) for x, y in fields["reuse"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    is_whole = all(type(number) is int and number > 0 for number in (stored.file_bytes, stored.n_threads))
    is_sound = (
        is_whole
        and isinstance(stored.processor, str)
        and (stored.compute_s is None or (is_number(stored.compute_s) and stored.compute_s > 0))
        and all(is_number(x) and is_number(y) and 0 < x < 1 and y >= 0 for x, y in stored.reuse)
    )
    return stored if is_sound and stored.file_bytes == file_bytes else None
