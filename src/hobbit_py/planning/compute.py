"""How fast this machine multiplies experts with one token: ggml's own kernel, over more bytes than caches hold."""

from __future__ import annotations

import ctypes
import random
import statistics
import time

from ..huge_pages import arena_like
from ..pack._ggml import libggml

_F32, _I32 = 0, 26  # ggml_type
_N_USED = 8
_MAX_WEIGHT_BYTES = 256 << 20
_OTHER_BYTES = 64 << 20  # results, ids and ggml's own records
_N_REPEATS = 5

_Pointer = ctypes.c_void_p
_I64 = ctypes.c_int64


class _InitParams(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_init = ctypes.CFUNCTYPE(_Pointer, _InitParams)(("ggml_init", libggml))
_free = ctypes.CFUNCTYPE(None, _Pointer)(("ggml_free", libggml))
_new_2d = ctypes.CFUNCTYPE(_Pointer, _Pointer, ctypes.c_int, _I64, _I64)(("ggml_new_tensor_2d", libggml))
_new_3d = ctypes.CFUNCTYPE(_Pointer, _Pointer, ctypes.c_int, _I64, _I64, _I64)(("ggml_new_tensor_3d", libggml))
_mul_mat_id = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Pointer, _Pointer, _Pointer)(("ggml_mul_mat_id", libggml))
_new_graph = ctypes.CFUNCTYPE(_Pointer, _Pointer)(("ggml_new_graph", libggml))
_expand = ctypes.CFUNCTYPE(None, _Pointer, _Pointer)(("ggml_build_forward_expand", libggml))
_get_data = ctypes.CFUNCTYPE(_Pointer, _Pointer)(("ggml_get_data", libggml))
_n_bytes = ctypes.CFUNCTYPE(ctypes.c_size_t, _Pointer)(("ggml_nbytes", libggml))
_compute = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int)(("ggml_graph_compute_with_ctx", libggml))


def measure_matmul(type_id: int, n_in: int, n_out: int, matrix_bytes: int, n_threads: int) -> float:
    """Bytes of weights per second that products of experts with one token get through; the median of five passes.

    `type_id` and shape are those of an expert's matrix. Takes up to 320 MiB for a second or so.
    """
    n_matrices = max(2 * _N_USED, min(_MAX_WEIGHT_BYTES // matrix_bytes, 4096) // _N_USED * _N_USED)
    memory = arena_like(n_matrices * matrix_bytes + _OTHER_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    context = _init(_InitParams(len(memory), address, False))
    try:
        weights = _new_3d(context, type_id, n_in, n_out, n_matrices)
        # Any bytes will do whose halves are ordinary F16 scales: subnormal numbers would cost time.
        ctypes.memset(_get_data(weights), 0x11, _n_bytes(weights))
        token = _new_3d(context, _F32, n_in, 1, 1)
        ctypes.memset(_get_data(token), 0x3D, _n_bytes(token))
        graph = _new_graph(context)
        order = list(range(n_matrices))
        random.Random(0).shuffle(order)
        for first in range(0, n_matrices, _N_USED):
            ids = _new_2d(context, _I32, _N_USED, 1)
            chosen = (ctypes.c_int32 * _N_USED)(*order[first : first + _N_USED])
            ctypes.memmove(_get_data(ids), chosen, ctypes.sizeof(chosen))
            _expand(graph, _mul_mat_id(context, weights, token, ids))
        times = []
        for _ in range(_N_REPEATS):
            started = time.perf_counter()
            _compute(context, graph, n_threads)
            times.append(time.perf_counter() - started)
        return n_matrices * matrix_bytes / statistics.median(times)
    finally:
        _free(context)
