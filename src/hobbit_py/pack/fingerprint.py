"""What a lo file says of its source, and the check that it belongs to a model.

Experts of another model with the same shapes would run without any error and talk nonsense, so names and shapes are not
enough. Reading all experts to compare them would take as long as packing: a sample of their bytes tells fine-tunes of
one model apart just as well, since training moves every matrix.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ModelFileError
from .gguf_file import GgufHeader, open_header
from .source import ExpertFiles, ModelExperts, open_model, read_experts

VERSION = 1
VERSION_KEY = "hobbit.pack.version"
FEEDBACK_VERSION = 1
TYPES_KEY = "hobbit.pack.types"
IMATRIX_KEY = "hobbit.pack.imatrix_sha256"
FEEDBACK_KEY = "hobbit.pack.feedback"  # the version of what chose the integers; 0: ggml's quantiser alone
FILE_BYTES_KEY = "hobbit.pack.source.file_bytes"
LAYOUT_KEY = "hobbit.pack.source.layout_sha256"
SAMPLES_KEY = "hobbit.pack.source.samples_sha256"

_N_SAMPLES = 64
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Fingerprint:
    """Sizes of the model's files, a hash of where which expert tensor is, a hash of samples of their bytes."""

    file_bytes: tuple[int, ...]
    layout: str
    samples: str

    @classmethod
    def of(cls, model: ModelExperts) -> Fingerprint:
        """Reads 256 KiB of the model, spread over all expert tensors; raises ReadError."""
        layout = _layout_hash(model)
        return cls(model.file_bytes, layout, _sample_hash(model, seed=layout))

    @classmethod
    def read_from(cls, header: GgufHeader, path: Path) -> Fingerprint | None:
        """What a lo file says of its source; None if `hobbit pack` did not make it. Raises ModelFileError."""
        version = header.get_u32(VERSION_KEY)
        if version is None:
            return None
        if version != VERSION:
            raise ModelFileError(
                f"{str(path)!r} is a lo copy of version {version}, expected {VERSION}; make it anew with 'hobbit pack'."
            )
        file_bytes = header.get_u64s(FILE_BYTES_KEY)
        layout, samples = header.get_string(LAYOUT_KEY), header.get_string(SAMPLES_KEY)
        if file_bytes is None or layout is None or samples is None:
            raise ModelFileError(
                f"{str(path)!r} does not say which model it was packed from; make it again with 'hobbit pack'."
            )
        return cls(file_bytes, layout, samples)


def verify(model_paths: Sequence[str | os.PathLike[str]], lo_path: str | os.PathLike[str]) -> None:
    """Checks that a lo copy is complete, has the model's expert tensors, and was packed from this very model.

    `model_paths` are all files of a model that is known to be sound. A GGUF that `hobbit pack` did not make, e.g.
    another quantisation of the model, is checked for names and shapes alone. Costs two headers and 64 small reads.

    Raises:
        ModelFileError: One sentence that says what differs.
        ReadError: The drive failed.
    """
    lo_path = Path(lo_path)
    model = read_experts(model_paths)
    name = str(model.paths[0])
    lo = open_model(lo_path)
    _check_tensors(model, lo)
    with open_header(lo_path) as header:
        claimed = Fingerprint.read_from(header, lo_path)
    if claimed is None:
        return
    remedy = "make one with 'hobbit pack'"
    if claimed.file_bytes != model.file_bytes:
        raise ModelFileError(
            f"{str(lo_path)!r} is not a lo copy of {name!r}: it was packed from {_sizes_text(claimed.file_bytes)}, "
            f"found {_sizes_text(model.file_bytes)}; {remedy}."
        )
    if claimed.layout != _layout_hash(model):
        raise ModelFileError(
            f"{str(lo_path)!r} is not a lo copy of {name!r}: it was packed from a model whose expert tensors have "
            f"other types or places in the file; {remedy}."
        )
    if claimed.samples != _sample_hash(model, seed=claimed.layout):
        raise ModelFileError(
            f"{str(lo_path)!r} is not a lo copy of {name!r}: it was packed from a model of the same layout with other "
            f"weights; {remedy}."
        )


def _check_tensors(model: ModelExperts, lo: ModelExperts) -> None:
    found = {tensor.name: tensor for tensor in lo.tensors}
    for tensor in model.tensors:
        other = found.get(tensor.name)
        if other is None or other.shape != tensor.shape:
            found_shape = "none" if other is None else list(other.shape)
            raise ModelFileError(
                f"{str(lo.paths[0])!r} is not a lo copy of {str(model.paths[0])!r}: tensor {tensor.name}, expected "
                f"shape {list(tensor.shape)}, found {found_shape}; make one with 'hobbit pack'."
            )


def _layout_hash(model: ModelExperts) -> str:
    lines = (f"{t.name} {t.type.name} {t.shape} {t.file_idx} {t.offset}\n" for t in model.tensors)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sample_hash(model: ModelExperts, seed: str) -> str:
    """Hash of samples whose places follow from the seed; a sample never crosses a tensor's end."""
    ends = list(itertools.accumulate(tensor.n_bytes for tensor in model.tensors))
    digest = hashlib.sha256()
    buffer = np.empty(_SAMPLE_BYTES, np.uint8)
    with ExpertFiles(model) as files:
        for i in range(_N_SAMPLES):
            place = int.from_bytes(hashlib.sha256(f"{seed} {i}".encode()).digest()[:8], "little") % ends[-1]
            tensor = model.tensors[bisect.bisect_right(ends, place)]
            n_left = ends[bisect.bisect_right(ends, place)] - place
            n_bytes = min(_SAMPLE_BYTES, tensor.n_bytes)
            within = min(tensor.n_bytes - n_left, tensor.n_bytes - n_bytes)
            files.read_into(tensor.file_idx, tensor.offset + within, buffer[:n_bytes])
            digest.update(buffer[:n_bytes].data)
    return digest.hexdigest()


def _sizes_text(file_bytes: Sequence[int]) -> str:
    if len(file_bytes) == 1:
        return f"a file of {file_bytes[0]} bytes"
    return f"{len(file_bytes)} files of {sum(file_bytes)} bytes"
