"""Writes an importance matrix as llama.cpp's GGUF format has it: for every expert tensor `.in_sum2` and `.counts`.

Besides, `.in_corr` where it was recorded, which llama.cpp passes over: how inputs go together (moments.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter

from .moments import CORRELATIONS, correlations
from .quantize import Floats


@dataclass(frozen=True)
class TensorImportance:
    """Of one expert tensor: sums of squared inputs [n_expert, n_in], and the rows they are of [n_expert]."""

    name: str
    squares: Floats
    n_rows: npt.NDArray[np.float64]


# Of a tensor by its name: sums of products [n_groups, n_triangles], or None (`_core.Engine.moments`).
Products = Callable[[str], tuple[Floats, npt.NDArray[np.float64]] | None]


def write_imatrix(
    path: Path,
    tensors: Sequence[TensorImportance],
    products: Products,
    *,
    dataset: str,
    n_chunks: int,
    chunk_tokens: int,
) -> None:
    """Writes the file, whole or not at all; raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    writer = GGUFWriter(temporary, arch="")
    try:
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [dataset])
        writer.add_uint32("imatrix.chunk_count", n_chunks)
        writer.add_uint32("imatrix.chunk_size", chunk_tokens)
        for tensor in tensors:
            writer.add_tensor(f"{tensor.name}.in_sum2", tensor.squares)
            writer.add_tensor(f"{tensor.name}.counts", tensor.n_rows.astype(np.float32)[:, np.newaxis])
            found = products(tensor.name)
            if found is not None:
                writer.add_tensor(f"{tensor.name}{CORRELATIONS}", correlations(found[0], tensor.squares.shape[1]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        writer.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
