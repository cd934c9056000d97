"""Reads the header of one GGUF file with ggml's own parser: what the runtime accepts is what this accepts."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFValueType

from ..errors import ModelFileError
from ._ggml import libggml

_MAX_DIMS = 4


class _InitParams(ctypes.Structure):
    """gguf_init_params."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


_Context = ctypes.c_void_p
_init_from_file = ctypes.CFUNCTYPE(_Context, ctypes.c_char_p, _InitParams)(("gguf_init_from_file", libggml))
_free = ctypes.CFUNCTYPE(None, _Context)(("gguf_free", libggml))
_data_offset = ctypes.CFUNCTYPE(ctypes.c_size_t, _Context)(("gguf_get_data_offset", libggml))
_n_tensors = ctypes.CFUNCTYPE(ctypes.c_int64, _Context)(("gguf_get_n_tensors", libggml))
_find_key = ctypes.CFUNCTYPE(ctypes.c_int64, _Context, ctypes.c_char_p)(("gguf_find_key", libggml))

_OfId = (_Context, ctypes.c_int64)
_tensor_name = ctypes.CFUNCTYPE(ctypes.c_char_p, *_OfId)(("gguf_get_tensor_name", libggml))
_tensor_type = ctypes.CFUNCTYPE(ctypes.c_int, *_OfId)(("gguf_get_tensor_type", libggml))
_tensor_ne = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_int64), *_OfId)(("gguf_get_tensor_ne", libggml))
_tensor_offset = ctypes.CFUNCTYPE(ctypes.c_size_t, *_OfId)(("gguf_get_tensor_offset", libggml))
_tensor_size = ctypes.CFUNCTYPE(ctypes.c_size_t, *_OfId)(("gguf_get_tensor_size", libggml))
_kv_type = ctypes.CFUNCTYPE(ctypes.c_int, *_OfId)(("gguf_get_kv_type", libggml))
_val_str = ctypes.CFUNCTYPE(ctypes.c_char_p, *_OfId)(("gguf_get_val_str", libggml))
_val_u32 = ctypes.CFUNCTYPE(ctypes.c_uint32, *_OfId)(("gguf_get_val_u32", libggml))
_arr_type = ctypes.CFUNCTYPE(ctypes.c_int, *_OfId)(("gguf_get_arr_type", libggml))
_arr_n = ctypes.CFUNCTYPE(ctypes.c_size_t, *_OfId)(("gguf_get_arr_n", libggml))
_arr_data = ctypes.CFUNCTYPE(ctypes.c_void_p, *_OfId)(("gguf_get_arr_data", libggml))


@dataclass(frozen=True)
class Tensor:
    """One entry of the tensor table; `ne` is ggml's order (rows of ne[0] weights), `offset` is that in the file."""

    name: str
    type_id: int
    ne: tuple[int, int, int, int]
    offset: int
    n_bytes: int


class GgufHeader:
    """Metadata and tensor table of one open file."""

    def __init__(self, context: int) -> None:
        self._context = context

    def tensors(self) -> list[Tensor]:
        """All tensors in file order."""
        context, data_offset = self._context, _data_offset(self._context)
        return [
            Tensor(
                name=_tensor_name(context, i).decode("utf-8", "replace"),
                type_id=_tensor_type(context, i),
                ne=tuple(_tensor_ne(context, i)[:_MAX_DIMS]),
                offset=data_offset + _tensor_offset(context, i),
                n_bytes=_tensor_size(context, i),
            )
            for i in range(_n_tensors(context))
        ]

    def get_string(self, key: str) -> str | None:
        """The string of that key; None if it is absent or of another type."""
        key_id = self._find(key, GGUFValueType.STRING)
        return None if key_id is None else str(_val_str(self._context, key_id).decode("utf-8", "replace"))

    def get_u32(self, key: str) -> int | None:
        """The number of that key; None if it is absent or of another type."""
        key_id = self._find(key, GGUFValueType.UINT32)
        return None if key_id is None else int(_val_u32(self._context, key_id))

    def get_u64s(self, key: str) -> tuple[int, ...] | None:
        """The array of that key; None if it is absent or of another type."""
        key_id = self._find(key, GGUFValueType.ARRAY)
        if key_id is None or _arr_type(self._context, key_id) != GGUFValueType.UINT64:
            return None
        n = _arr_n(self._context, key_id)
        return tuple((ctypes.c_uint64 * n).from_address(_arr_data(self._context, key_id))) if n else ()

    def _find(self, key: str, value_type: GGUFValueType) -> int | None:
        key_id = _find_key(self._context, key.encode())
        return key_id if key_id >= 0 and _kv_type(self._context, key_id) == value_type else None


def has_gguf_magic(path: Path) -> bool:
    """Tells whether the file begins as a GGUF; OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


@contextlib.contextmanager
def open_header(path: Path) -> Iterator[GgufHeader]:
    """The parsed header, valid within the block; ModelFileError if there is none."""
    try:
        is_gguf = has_gguf_magic(path)
    except OSError as error:
        raise ModelFileError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    if not is_gguf:
        raise ModelFileError(f"{str(path)!r} is not a GGUF file: it does not begin with the letters GGUF.")
    context = _init_from_file(os.fsencode(path), _InitParams(no_alloc=True, ctx=None))
    if not context:
        raise ModelFileError(
            f"{str(path)!r} has a GGUF header that is damaged or truncated; get or make the file again."
        )
    try:
        yield GgufHeader(context)
    finally:
        _free(context)
