"""Names of lo files, and finding the one that belongs to a model."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from .types import LoTypes

_PART = re.compile(r"-(\d{5})-of-\d{5}$")


def default_out(model_path: Path, lo: LoTypes) -> Path:
    """`<model>.lo-<types>.gguf` beside the model; of a split model the name without the part's number."""
    return model_path.with_name(f"{_stem(model_path)}.lo-{lo.file_label}.gguf")


def default_imatrix(model_path: Path) -> Path:
    """`<model>.imatrix.gguf` beside the model: where `hobbit imatrix` writes it and `hobbit pack` looks for it."""
    return model_path.with_name(f"{_stem(model_path)}.imatrix.gguf")


def find_lo(model_path: str | os.PathLike[str]) -> Path | None:
    """The lo copy beside a model, named `<model>.lo-*.gguf`; None if there is none.

    Of several the largest is taken: it loses the least accuracy, and who packed a smaller one for speed can name it.
    Whether it belongs to the model is for `fingerprint.verify` to say.
    """
    return next(iter(find_los_by_size(model_path)), None)


def find_los_by_size(model_path: str | os.PathLike[str]) -> list[Path]:
    """All lo copies beside a model, the largest first."""
    return sorted(find_los(model_path), key=lambda path: (path.stat().st_size, path.name), reverse=True)


def find_los(model_path: str | os.PathLike[str]) -> list[Path]:
    """All lo copies beside a model, by name."""
    model_path = Path(model_path)
    pattern = f"{glob.escape(_stem(model_path))}.lo-*.gguf"
    return sorted(path for path in model_path.parent.glob(pattern) if path.is_file() and not _is_later_part(path))


def _stem(path: Path) -> str:
    return _PART.sub("", path.name.removesuffix(".gguf"))


def _is_later_part(path: Path) -> bool:
    part = _PART.search(path.stem)
    return part is not None and int(part[1]) != 1
