"""What the tests of packing share: expert tensors of a file, importance matrices for a model."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFWriter, ReaderTensor


def expert_tensors(path: Path) -> dict[str, ReaderTensor]:
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors if "_exps.weight" in tensor.name}


def write_imatrix(path: Path, model: Path, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Random importance for every expert tensor; returns it as [n_expert, n_in]."""
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, "")
    writer.add_type("imatrix")
    importance = {}
    for name, tensor in expert_tensors(model).items():
        n_in, _, n_expert = (int(n) for n in tensor.shape)
        importance[name] = rng.uniform(0.1, 10, (n_expert, n_in)).astype(np.float32)
        writer.add_tensor(f"{name}.in_sum2", importance[name] * np.float32(4))
        writer.add_tensor(f"{name}.counts", np.full((n_expert, 1), 4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return importance
