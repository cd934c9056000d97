"""Which copies of a model's experts `hobbit tune` found settings for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .stored import read_stored, stored_file, stored_tuning


@dataclass(frozen=True)
class TunedCopies:
    """Files beside the model; `hi` None: the experts of the model."""

    lo: Path
    hi: Path | None


def tuned_copies(model_path: str | os.PathLike[str]) -> TunedCopies | None:
    """The copies that the tune file is about; None unless they lie beside the model and all is as it was tuned.

    `model_path` is the model's first file, of which the tune file knows the others. Where nothing was within the loss,
    so that exact mode was kept, other copies than those tried may do better: there are none then.
    """
    model_path = Path(model_path)
    stored = read_stored(model_path)
    tuning = stored_tuning(stored)
    if tuning is None or tuning.is_exact:
        return None
    parts = stored.get("model")
    if not isinstance(parts, list) or not parts or _beside(model_path, parts[0]) != model_path:
        return None
    lo, hi = _beside(model_path, stored.get("lo")), _beside(model_path, stored.get("hi"))
    is_hi_missing = hi is None and stored.get("hi") is not None
    if lo is None or is_hi_missing or any(_beside(model_path, part) is None for part in parts):
        return None
    return TunedCopies(lo, hi)


def _beside(model_path: Path, stored: object) -> Path | None:
    """The file of a stored name and size in the model's folder; None if it is not there."""
    file = stored_file(stored)
    # What came with a model from elsewhere must not name a file outside of its folder.
    if file is None or Path(file["name"]).name != file["name"]:
        return None
    try:
        path = model_path.with_name(file["name"])
        return path if path.is_file() and path.stat().st_size == file["bytes"] else None
    except (OSError, ValueError):
        return None
