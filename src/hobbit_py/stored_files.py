"""Reads small files that may be damaged, or of anyone's making: whatever is wrong with one is a ValueError.

A file of a few kilobytes can ask for gigabytes (nested lists, arrays that unpack to much more), so what it says of its
size is looked at before memory is given to it.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

_SPARE_BYTES = 64 << 20  # what arrays may take however small their file is
_MAX_RATIO = 100  # of packed arrays; routing packs to a fifth


def read_json(path: Path, max_bytes: int) -> Any:  # noqa: ANN401
    """What the file holds. Raises OSError, and ValueError for what is no JSON or longer than any file of that kind."""
    with path.open("rb") as file:
        text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise ValueError(f"it is longer than {max_bytes} bytes")
    try:
        return json.loads(text.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_number(value: object) -> TypeGuard[int | float]:
    """Tells whether it is a finite number, of a size that a float has too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's integers have no bounds
        return False


def read_arrays(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name. Raises OSError, and ValueError for what is none."""
    with Path(path).open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                n_bytes = sum(member.file_size for member in archive.infolist())
            if n_bytes > _SPARE_BYTES + _MAX_RATIO * file_bytes:
                raise ValueError("it unpacks to more than such a file can hold")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # zipfile's, zlib's, and of Python's tokenizer, with which numpy parses headers
            raise ValueError(f"it is damaged ({type(error).__name__})") from error
