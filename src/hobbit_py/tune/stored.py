"""The file beside a model that keeps what `hobbit tune` chose for it.

It names the model's files and those of its copies with their sizes: thresholds found for some say nothing about others.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..atomic_file import write_text_atomically
from ..policies import Reroute, WeightThresholds
from ..policies.eviction import BUILT_INS
from ..stored_files import is_number, read_json
from .candidate import Rerouting, is_lo_alone

SCHEMA = 6
_MAX_BYTES = 1 << 20  # a larger file is not ours
_PART = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Tuning:
    """Thresholds, and what they cost and saved where they were measured.

    `hi_above` is that of the middle layer and `tilt` how it falls with depth, see WeightThresholds.tilted.
    `loss` is the perplexity against exact mode on the same tokens, minus one (0.004: 0.4% worse), `loss_se` its
    standard error; `bytes_ratio` the expert bytes read, over exact mode's with the same memory; `time_ratio` the time
    of a token, likewise, as far as it follows from bytes (tune.candidate.Speeds). `reroute_below` and
    `reroute_fall` are those of the router filter that all this was measured with (tune.candidate.Rerouting), 0: none.
    """

    hi_above: float
    skip_below: float
    wait_above: float
    tilt: float
    lo_share: float
    reroute_below: float
    reroute_fall: float
    loss: float
    loss_se: float
    bytes_ratio: float
    time_ratio: float
    tokens: int
    max_loss: float
    expert_memory_bytes: int

    def policy(self, n_layers: int) -> WeightThresholds:
        """The precision policy for the model, which has so many layers."""
        return WeightThresholds.tilted(
            self.hi_above, self.tilt, n_layers, skip_below=self.skip_below, wait_above=self.wait_above
        )

    @property
    def is_lo_alone(self) -> bool:
        """Whether no hi copy is ever wanted, and none gets memory."""
        return is_lo_alone(self.hi_above, self.lo_share)

    @property
    def is_exact(self) -> bool:
        """Whether every expert is wanted in hi: nothing else was within the loss."""
        return self.hi_above <= 0

    def router_filter(self) -> Reroute | None:
        """The router filter, None without one."""
        return Rerouting(self.reroute_below, self.reroute_fall).router_filter()


@dataclass(frozen=True)
class EvictionTuning:
    """The eviction policy that missed least on a trace in a precision, and its missed bytes there over those of LRU.

    `expert_memory_bytes` is the memory that it was measured with: with much more or less, another may be best.
    """

    precision: Literal["exact", "mixed"]
    name: str
    parameters: dict[str, float]
    miss_ratio: float
    tokens: int
    expert_memory_bytes: int


def tuning_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit.json` beside the model; of a split model the stem without the part's number."""
    path = Path(model_path)
    return path.with_name(f"{_PART.sub('', path.name.removesuffix('.gguf'))}.hobbit.json")


def save_tuning(
    model_paths: Sequence[str | os.PathLike[str]],
    lo_path: str | os.PathLike[str] | None,
    tuning: Tuning | None,
    evictions: Sequence[EvictionTuning] = (),
    *,
    hi_path: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the file, whole or not at all; raises OSError.

    `hi_path` are the hi copies that `tuning` is about, None: the experts of the model.

    What was stored for this model before and is not given now stays: thresholds, and the eviction policy of the other
    precision.
    """
    path = tuning_path(model_paths[0])
    before = _load(model_paths)
    stored: dict[str, Any] = {"schema": SCHEMA, "model": [_identity(p) for p in model_paths]}
    if lo_path is not None and tuning is not None:
        stored |= {"lo": _identity(lo_path), "hi": _identity_or_none(hi_path)} | dataclasses.asdict(tuning)
    elif (lo := stored_file(before.get("lo"))) is not None and (earlier := stored_tuning(before)) is not None:
        stored |= {"lo": lo, "hi": stored_file(before.get("hi"))} | dataclasses.asdict(earlier)
    kept = (_eviction_of(before, precision) for precision in ("exact", "mixed"))
    by_precision = {e.precision: dataclasses.asdict(e) for e in (*kept, *evictions) if e is not None}
    stored["eviction"] = by_precision
    text = json.dumps(stored, indent=2, allow_nan=False)
    write_text_atomically(path, text + "\n")
    return path


def load_tuning(
    model_paths: Sequence[str | os.PathLike[str]],
    lo_path: str | os.PathLike[str],
    hi_path: str | os.PathLike[str] | None = None,
) -> Tuning | None:
    """What was stored for this model and its copies; None if nothing was, or something that cannot be used.

    A file that is damaged, newer or about other files counts as absent: it is made anew by `hobbit tune`, and a model
    must not fail to load for it.
    """
    stored = _load(model_paths)
    try:
        lo, hi = _identity(lo_path), _identity_or_none(hi_path)
    except OSError:
        return None
    return stored_tuning(stored) if stored.get("lo") == lo and stored.get("hi") == hi else None


def load_eviction(
    model_paths: Sequence[str | os.PathLike[str]], expert_memory_bytes: int, precision: str
) -> EvictionTuning | None:
    """The policy stored for this model, precision and about this much memory (a quarter more or less); likewise."""
    eviction = _eviction_of(_load(model_paths), precision)
    if eviction is None or not 0.75 <= expert_memory_bytes / max(1, eviction.expert_memory_bytes) <= 1.25:
        return None
    return eviction


def _eviction_of(stored_file: dict[str, Any], precision: str) -> EvictionTuning | None:
    by_precision = stored_file.get("eviction")
    stored: Any = by_precision.get(precision) if isinstance(by_precision, dict) else None
    if not isinstance(stored, dict) or set(stored) != {field.name for field in dataclasses.fields(EvictionTuning)}:
        return None
    parameters, ratio, tokens, memory_bytes = (
        stored[name] for name in ("parameters", "miss_ratio", "tokens", "expert_memory_bytes")
    )
    if not isinstance(parameters, dict) or not all(
        is_number(value) for value in (ratio, tokens, memory_bytes, *parameters.values())
    ):
        return None
    if not isinstance(stored["name"], str) or stored["name"] not in BUILT_INS or stored["precision"] != precision:
        return None
    if not all(0 <= value <= 1 for value in parameters.values()):
        return None
    known = {field.name for field in dataclasses.fields(BUILT_INS[stored["name"]])}  # type: ignore[arg-type]
    if not set(parameters) <= known:
        return None
    return EvictionTuning(stored["precision"], stored["name"], parameters, float(ratio), int(tokens), int(memory_bytes))


def _load(model_paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """What is stored about these very files; empty if nothing is."""
    stored = read_stored(model_paths[0])
    try:
        model = [_identity(path) for path in model_paths]
    except OSError:
        return {}
    return stored if stored.get("model") == model else {}


def read_stored(model_path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the tune file beside the model says, whatever files it is about; empty if there is none of ours."""
    try:
        stored = read_json(tuning_path(model_path), _MAX_BYTES)
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) and stored.get("schema") == SCHEMA else {}


def stored_tuning(stored: dict[str, Any]) -> Tuning | None:
    """The settings in what `read_stored` gave; None if there are none, or some that cannot be used."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Tuning):
        value = stored.get(field.name)
        if not is_number(value):
            return None
        values[field.name] = int(value) if field.name in ("tokens", "expert_memory_bytes") else float(value)
    tuning = Tuning(**values)
    shares = (tuning.hi_above, tuning.skip_below, tuning.lo_share, tuning.reroute_below, tuning.reroute_fall)
    in_range = all(0 <= share <= 1 for share in shares) and tuning.wait_above >= 0 and abs(tuning.tilt) <= 1
    return tuning if in_range else None


def stored_file(value: object) -> dict[str, Any] | None:
    """Name and bytes of a file as they are stored; None for anything else."""
    if not isinstance(value, dict) or set(value) != {"name", "bytes"}:
        return None
    return value if isinstance(value["name"], str) and is_number(value["bytes"]) else None


def _identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(path)
    return {"name": path.name, "bytes": path.stat().st_size}


def _identity_or_none(path: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    return None if path is None else _identity(path)
