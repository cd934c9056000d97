"""Importance matrices of llama.cpp's `llama-imatrix`: how much each input of each expert mattered on a text.

Both of its formats are read: GGUF (sums of squares and counts for each expert) and the older binary one (means, scaled
by the number of calls). Only the table is held: the numbers of a large model's experts take a gigabyte. A file of
`hobbit imatrix` says as well how inputs go together (moments.py).
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import threading
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGMLQuantizationType

from ..errors import ModelFileError
from .gguf_file import Tensor, has_gguf_magic, open_header
from .moments import CORRELATIONS, Correlations, estimate, moments_of, n_triangles
from .quantize import Floats

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_NAME_BYTES = 4096
_MAX_LAYERS = 4  # whose moments are kept; threads work on neighbouring ones


@dataclass(frozen=True)
class _Entry:
    """Where the sums [n_expert, n_in] of a tensor are, and what to divide them by: counts by expert, or one for all."""

    offset: int
    n_sums: int
    counts: tuple[float, ...]


@dataclass(frozen=True)
class _Correlations:
    """Where the correlations [n_groups, n] of a tensor's inputs are."""

    offset: int
    n_groups: int
    n: int


class Imatrix:
    """An open importance matrix. Reads come from any thread; a context manager."""

    def __init__(self, path: Path) -> None:
        """Reads the table; raises ModelFileError."""
        self._path = path
        self._correlations: dict[str, _Correlations] = {}
        self._layers: dict[str, Floats] = {}  # moments of the last few tensors' inputs
        self._layers_lock = threading.Lock()
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
        found = self._correlations.get(_recorded_name(name, self._correlations))
        if found is not None and (found.n != n_triangles(n_in) or found.n_groups not in (1, n_expert)):
            raise ModelFileError(
                f"The importance matrix {str(self._path)!r} has {found.n} correlations for {name}, expected "
                f"{n_triangles(n_in)}; use one that was made with this model."
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

    def has_moments(self, name: str) -> bool:
        """Tells whether it was recorded how the tensor's inputs go together."""
        return name in self._entries and _recorded_name(name, self._correlations) in self._correlations

    def moments(self, name: str, n_in: int, expert_idx: int) -> Floats:
        """Second moments of one expert's inputs, as feedback.improve() takes them; of a tensor with has_moments()."""
        recorded = _recorded_name(name, self._correlations)
        is_shared = "_down_" not in name  # every expert of the layer may get the same row
        own = None
        if self._correlations[recorded].n_groups > 1:
            own = moments_of(self._stored(recorded, expert_idx), self.row(name, n_in, expert_idx))
        counts = self._entries[name].counts
        n_rows = counts[expert_idx if len(counts) > 1 else 0]
        return estimate(own, n_rows, self._layer(name, recorded, n_in) if is_shared else None, n_in)

    def _layer(self, name: str, recorded: str, n_in: int) -> Floats:
        """Moments of the rows of all experts together."""
        with self._layers_lock:
            if recorded not in self._layers:
                while len(self._layers) >= _MAX_LAYERS:
                    self._layers.pop(next(iter(self._layers)))
                self._layers[recorded] = self._sum_experts(name, recorded, n_in)
            return self._layers[recorded]

    def _sum_experts(self, name: str, recorded: str, n_in: int) -> Floats:
        counts = np.array(self._entries[name].counts, np.float32)
        shares = counts / max(counts.sum(), np.float32(1))
        squares = (self.row(name, n_in, expert_idx) * share for expert_idx, share in enumerate(shares.tolist()))
        if self._correlations[recorded].n_groups == 1:
            return moments_of(self._stored(recorded, 0), functools.reduce(np.add, squares))
        moments = (moments_of(self._stored(recorded, i), of_expert) for i, of_expert in enumerate(squares))
        return functools.reduce(np.add, moments)

    def _stored(self, recorded: str, group: int) -> Correlations:
        place = self._correlations[recorded]
        data = os.pread(self._file.fileno(), place.n, place.offset + place.n * group)
        if len(data) != place.n:
            raise _damaged(self._path, "it ends within a tensor")
        return np.frombuffer(data, np.int8)

    def _gguf_entries(self) -> Iterator[tuple[str, _Entry]]:
        with open_header(self._path) as header:
            if header.get_string("general.type") != "imatrix":
                raise ModelFileError(
                    f"{str(self._path)!r} is a GGUF file but not an importance matrix; make one with 'hobbit imatrix'."
                )
            tensors = {tensor.name: tensor for tensor in header.tensors()}
        n_file_bytes = self._path.stat().st_size
        for stored_name, stored in tensors.items():
            if stored_name.endswith(CORRELATIONS):
                if stored.type_id != GGMLQuantizationType.I8 or stored.offset + stored.n_bytes > n_file_bytes:
                    raise _damaged(self._path, "its correlations are of another type, or truncated")
                self._correlations[stored_name.removesuffix(CORRELATIONS)] = _place_of(stored)
            elif stored.type_id != GGMLQuantizationType.F32:
                raise _damaged(self._path, "it holds something else than F32")
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


def _place_of(tensor: Tensor) -> _Correlations:
    return _Correlations(tensor.offset, n_groups=tensor.ne[1], n=tensor.ne[0])


def _recorded_name(name: str, recorded: Container[str]) -> str:
    """The tensor that the inputs of a tensor were recorded with: `up` and `gate` have the same."""
    for kind, twin in (("_up_", "_gate_"), ("_gate_", "_up_")):
        other = name.replace(kind, twin)
        if name not in recorded and other != name and other in recorded:
            return other
    return name


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
