"""Quantises weights with ggml's own quantisers, so that every type llama.cpp runs can be written."""

import ctypes

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from llama_cpp._ggml import libggml

# Types of weights that ggml-cpu multiplies (MUL_MAT and MUL_MAT_ID).
QUANT_TYPES: tuple[str, ...] = (
    "F32", "F16", "BF16",
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
    "MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0",
)  # fmt: skip

_quantize_chunk = libggml.ggml_quantize_chunk
_quantize_chunk.restype = ctypes.c_size_t
_quantize_chunk.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
]


def block_size(type_name: str) -> int:
    """Weights in one block of the type: the rows of a matrix must be a multiple of it."""
    n_weights: int = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]][0]
    return n_weights


def quantize(weights: npt.NDArray[np.float32], type_name: str) -> npt.NDArray[np.uint8]:
    """Bytes of `weights` [..., n_in] in the given type: [..., bytes of a row].

    The first use of IQ1_S, IQ2_S and IQ2_XS in a process costs seconds: ggml builds their tables.
    """
    ggml_type = GGMLQuantizationType[type_name]
    block_weights, block_bytes = GGML_QUANT_SIZES[ggml_type]
    n_in = weights.shape[-1]
    if n_in % block_weights:
        raise ValueError(f"rows of {n_in} weights do not fit the {block_weights}-weight blocks of {type_name}")
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    quantized = np.empty((*weights.shape[:-1], n_in // block_weights * block_bytes), dtype=np.uint8)
    importance = np.ones(n_in, dtype=np.float32)  # some I-quants refuse to work without an importance matrix
    n_rows = weights.size // n_in
    n_bytes = _quantize_chunk(
        int(ggml_type), weights.ctypes.data, quantized.ctypes.data, 0, n_rows, n_in, importance.ctypes.data
    )
    if n_bytes != quantized.nbytes:
        raise RuntimeError(f"ggml wrote {n_bytes} bytes of {type_name}, expected {quantized.nbytes}")
    return quantized
