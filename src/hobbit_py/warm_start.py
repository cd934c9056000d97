"""The file that keeps which experts were in memory when a model was last closed, for the next run to begin with.

It lies beside the model, or in the user's cache folder where that cannot be written. A hint, no more: it is read in the
background when the drive is idle, and one that is missing, damaged or about another model costs a slower first answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from .atomic_file import write_text_atomically
from .bundled import is_bundled
from .stored_files import read_json

SCHEMA = 1
Copy = tuple[int, int, int]
"""Layer, expert, and 0 for the hi or 1 for the lo copy."""

_PART = re.compile(r"-\d{5}-of-\d{5}$")
_MAX_BYTES = 8 << 20  # more than any model's experts take; a larger file is not ours
_MAX_INDEX = 1 << 16


def hot_set_paths(model_path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """`<model stem>.hot.json` beside the model, and where it lies if that folder cannot be written."""
    path = Path(model_path).absolute()
    stem = _PART.sub("", path.name.removesuffix(".gguf"))
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG rules: what is not is to be ignored
        cache = Path.home() / ".cache"
    folder_hash = hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:16]
    return path.with_name(f"{stem}.hot.json"), cache / "hobbit_py" / "hot" / f"{stem}-{folder_hash}.json"


def save_hot_set(model_paths: Sequence[str], copies: Sequence[Copy]) -> Path | None:
    """Writes the file, whole or not at all; None where neither place can be written, and for the bundled model."""
    if is_bundled(model_paths[0]):
        return None
    text = json.dumps({"schema": SCHEMA, "bytes": _sizes(model_paths), "copies": copies}, separators=(",", ":"))
    beside, cached = hot_set_paths(model_paths[0])
    for path in (beside, cached):
        try:
            if path is cached:
                path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, text)
        except OSError:
            continue
        return path
    return None


def load_hot_set(model_paths: Sequence[str]) -> list[Copy]:
    """The copies, those most worth having first; empty if there is no file that can be used.

    Whether the model has each of them is for the engine to see.
    """
    for path in hot_set_paths(model_paths[0]):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            stored = read_json(path, _MAX_BYTES)
            if isinstance(stored, dict) and stored.get("schema") == SCHEMA and stored["bytes"] == _sizes(model_paths):
                return [_copy(item) for item in stored["copies"]]
    return []


def _copy(item: object) -> Copy:
    if not isinstance(item, list) or len(item) != 3 or any(type(number) is not int for number in item):
        raise ValueError("a copy is three numbers")
    layer_idx, expert_idx, precision = item
    if not (0 <= layer_idx < _MAX_INDEX and 0 <= expert_idx < _MAX_INDEX and precision in (0, 1)):
        raise ValueError("a number is out of its range")
    return layer_idx, expert_idx, precision


def _sizes(model_paths: Sequence[str]) -> list[int]:
    return [Path(path).stat().st_size for path in model_paths]
