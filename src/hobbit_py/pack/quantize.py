"""ggml's own quantisers, through the libggml-base that llama_cpp has mapped.

ctypes releases the interpreter's lock during a call, so Python threads are enough to use every core.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from ._ggml import libggml

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_F32 = int(GGMLQuantizationType.F32)
_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """ggml_type_traits."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("block_weights", ctypes.c_int64),
        ("block_interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    ]


# Prototypes of our own: attributes of `libggml` are shared with everybody else who declares argument types there.
_get_type_traits = ctypes.CFUNCTYPE(ctypes.POINTER(_TypeTraits), ctypes.c_int)(("ggml_get_type_traits", libggml))
_quantize_init = ctypes.CFUNCTYPE(None, ctypes.c_int)(("ggml_quantize_init", libggml))
_requires_imatrix = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_int)(("ggml_quantize_requires_imatrix", libggml))
_validate_row_data = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)(
    ("ggml_validate_row_data", libggml)
)
_quantize_chunk = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
)(("ggml_quantize_chunk", libggml))


@dataclass(frozen=True)
class TensorType:
    """How one ggml type stores weights: blocks of so many weights in so many bytes."""

    id: int
    name: str
    block_weights: int
    block_bytes: int
    can_dequantize: bool

    def row_bytes(self, n_in: int) -> int:
        """Bytes of a row of n_in weights, a multiple of block_weights."""
        return n_in // self.block_weights * self.block_bytes


@functools.cache
def tensor_type(type_id: int) -> TensorType:
    """Looks a type up by its number in a GGUF file, which ggml's parser has accepted."""
    traits = _get_type_traits(type_id).contents
    return TensorType(
        id=type_id,
        name=traits.type_name.decode().upper(),
        block_weights=traits.block_weights,
        block_bytes=traits.block_bytes,
        can_dequantize=type_id == _F32 or bool(traits.to_float),
    )


def tensor_type_named(name: str) -> TensorType:
    """Looks a type up by its name in upper case, e.g. "Q2_K"."""
    return tensor_type(int(GGMLQuantizationType[name]))


def requires_importance(kind: TensorType) -> bool:
    """Tells whether quantize() must be given importance for this type."""
    return bool(_requires_imatrix(kind.id))


def prepare(kind: TensorType) -> None:
    """Builds the tables of an I-quant, seconds for some; otherwise the first thread to quantise would."""
    _quantize_init(kind.id)


def dequantize(data: Bytes, kind: TensorType) -> Floats:
    """Weights, flat, of whole blocks of a type with can_dequantize."""
    if kind.id == _F32:
        return data.view(np.float32)
    weights: Floats = np.empty(data.nbytes // kind.block_bytes * kind.block_weights, np.float32)
    to_float = _ToFloat(_get_type_traits(kind.id).contents.to_float)
    to_float(data.ctypes.data, weights.ctypes.data, weights.size)
    return weights


def quantize(weights: Floats, kind: TensorType, importance: Floats | None) -> Bytes:
    """Quantises rows: weights [n_rows, n_in], contiguous and finite, importance [n_in]; returns [n_rows, row bytes].

    Rows do not depend on each other, so any split of a matrix into chunks of rows gives the same bytes.
    """
    n_rows, n_in = weights.shape
    quantized: Bytes = np.empty((n_rows, kind.row_bytes(n_in)), np.uint8)
    address = None if importance is None else importance.ctypes.data
    n_bytes = _quantize_chunk(kind.id, weights.ctypes.data, quantized.ctypes.data, 0, n_rows, n_in, address)
    assert n_bytes == quantized.nbytes
    return quantized


def is_valid(quantized: Bytes, kind: TensorType) -> bool:
    """Tells whether every scale is finite, as llama.cpp demands; a weight of F16 range can overflow one."""
    return bool(_validate_row_data(kind.id, quantized.ctypes.data, quantized.nbytes))
