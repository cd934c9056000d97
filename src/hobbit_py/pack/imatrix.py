"""Importance matrices of llama.cpp's `llama-imatrix`: how much each input of each expert mattered on a text.

Both of its formats are read: GGUF (sums of squares and counts for each expert) and the older binary one (means, scaled
by the number of calls). Only the table is held: the numbers of a large model's experts take a gigabyte.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGMLQuantizationType

from ..errors import ModelFileError
from .gguf_file import has_gguf_magic, open_header
from .quantize import Floats

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_NAME_BYTES = 4096


@dataclass(frozen=True)
class _Entry:
    """Where the sums [n_expert, n_in] of a tensor are, and what to divide them by: counts by expert, or one for all."""

    offset: int
    n_sums: int
    counts: tuple[float, ...]


class Imatrix:
    """An open importance matrix. Reads come from any thread; a context manager."""

    def __init__(self, path: Path) -> None:
        """Reads the table; raises ModelFileError."""
        self._path = path
        try:
            is_gguf = has_gguf_magic(path)
            self._file = path.open("rb")
        except OSError as error:
            raise ModelFileError(f"The importance matrix {str(path)!r} cannot be read: {error.strerror}.") from None
        try:
            self._entries = dict(self._gguf_entries() if is_gguf else _legacy_entries(self._file, path))
            self.sha256 = _sha256(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Imatrix:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()

    def has(self, name: str) -> bool:
        """Tells whether the tensor was seen when the matrix was made."""
        return name in self._entries

    def check_shape(self, name: str, n_in: int, n_expert: int) -> None:
        """ModelFileError unless there is a row of n_in numbers for each of n_expert experts of that tensor."""
        entry = self._entries[name]
        if entry.n_sums != n_in * n_expert or len(entry.counts) not in (1, n_expert):
            raise ModelFileError(
                f"The importance matrix {str(self._path)!r} has {entry.n_sums} numbers for {name}, expected {n_in} for "
                f"each of {n_expert} experts; use one that was made with this model."
            )

    def row(self, name: str, n_in: int, expert_idx: int) -> Floats:
        """Importance [n_in] of one expert's inputs; ones for an expert that was never selected."""
        entry = self._entries[name]
        count = entry.counts[expert_idx if len(entry.counts) > 1 else 0]
        if count <= 0:
            return np.ones(n_in, np.float32)
        data = os.pread(self._file.fileno(), 4 * n_in, entry.offset + 4 * n_in * expert_idx)
        if len(data) != 4 * n_in:
            raise _damaged(self._path, "it ends within a tensor")
        with np.errstate(all="ignore"):  # what comes of odd numbers is looked at below
            importance: Floats = np.divide(np.frombuffer(data, "<f4"), count, dtype=np.float32)
        if not np.isfinite(importance).all():
            raise _damaged(self._path, f"{name} has a number that is not finite")
        return importance

    def _gguf_entries(self) -> Iterator[tuple[str, _Entry]]:
        with open_header(self._path) as header:
            if header.get_string("general.type") != "imatrix":
                raise ModelFileError(
                    f"{str(self._path)!r} is a GGUF file but not an importance matrix; make one with 'hobbit imatrix'."
                )
            tensors = {tensor.name: tensor for tensor in header.tensors()}
        if any(tensor.type_id != GGMLQuantizationType.F32 for tensor in tensors.values()):
            raise _damaged(self._path, "it holds something else than F32")
        n_file_bytes = self._path.stat().st_size
        for sums_name, sums in tensors.items():
            if not sums_name.endswith(_SUMS):
                continue
            name = sums_name.removesuffix(_SUMS)
            counts = tensors.get(name + _COUNTS)
            if counts is None or not counts.n_bytes:
                raise _damaged(self._path, f"{name} has sums without counts")
            if max(sums.offset + sums.n_bytes, counts.offset + counts.n_bytes) > n_file_bytes:
                raise _damaged(self._path, "it is truncated")
            data = os.pread(self._file.fileno(), counts.n_bytes, counts.offset)
            rounded = np.rint(np.frombuffer(data, "<f4"))
            yield name, _Entry(sums.offset, sums.n_bytes // 4, tuple(rounded.tolist()))


def _legacy_entries(file: BinaryIO, path: Path) -> Iterator[tuple[str, _Entry]]:
    n_file_bytes = path.stat().st_size

    def integer() -> int:
        data = file.read(4)
        if len(data) != 4:
            raise _damaged(path, "it is truncated, or of another kind")
        return int(struct.unpack("<i", data)[0])

    n_entries = integer()
    if n_entries < 1:
        raise _damaged(path, "it has no entries, or is of another kind")
    for _ in range(n_entries):
        n_name_bytes = integer()
        if not 0 < n_name_bytes <= _MAX_NAME_BYTES:
            raise _damaged(path, "it is of another kind")
        name = file.read(n_name_bytes).decode("utf-8", "replace")
        n_calls, n_sums, offset = integer(), integer(), file.tell()
        if n_sums < 1 or offset + 4 * n_sums > n_file_bytes:
            raise _damaged(path, "it is truncated, or of another kind")
        file.seek(4 * n_sums, os.SEEK_CUR)
        yield name, _Entry(offset, n_sums, (float(max(1, n_calls)),))


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _damaged(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"{str(path)!r} is not a usable importance matrix: {reason}; make it again with 'hobbit imatrix'."
    )
