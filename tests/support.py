"""Runs models in stock llama-cpp-python in a way that is comparable with ours, and reads what a model file holds."""

import ctypes
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from unittest.mock import patch

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader
from llama_cpp import _internals as internals
from llama_cpp import llama_cpp as bindings
from tiny_models import N_VOCAB

import hobbit_py
from hobbit_py import _host

Logits = npt.NDArray[np.float32]
ModelFactory = Callable[..., Path]  # conftest.tiny_model
StockReference = Callable[..., Logits]  # conftest.stock_reference

N_CTX = 1024
_EXPERT_TENSOR = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down|gate_up)_exps\.weight")
_TOPK_TENSOR = re.compile(r"ffn_moe_topk-(\d+)")


def make_prompt(n_tokens: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    ids = np.random.default_rng([seed, n_tokens]).integers(0, N_VOCAB, n_tokens)
    return [int(token) for token in ids]


@contextmanager
def stock_llama(
    path: Path,
    *,
    n_threads: int = 1,
    n_ctx: int = N_CTX,
    n_batch: int = 512,
    n_ubatch: int = 512,
    eval_callback: Callable[[ctypes.c_void_p, bool], bool] | None = None,
) -> Iterator[llama_cpp.Llama]:
    """A stock model on the CPU that keeps the logits of every token.

    Extra buffer types are off: they repack weights for other kernels, whose sums differ in the last bits.
    """
    default_model_params: Callable[[], bindings.llama_model_params] = bindings.llama_model_default_params
    default_context_params: Callable[[], bindings.llama_context_params] = bindings.llama_context_default_params

    def model_params() -> bindings.llama_model_params:
        params = default_model_params()
        params.use_extra_bufts = False
        return params

    def context_params() -> bindings.llama_context_params:
        params = default_context_params()
        if eval_callback is not None:
            params.cb_eval = eval_callback
        return params

    with (
        patch.object(bindings, "llama_model_default_params", model_params),
        patch.object(bindings, "llama_context_default_params", context_params),
    ):
        model = llama_cpp.Llama(
            str(path),
            n_gpu_layers=0,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            logits_all=True,
            verbose=False,
        )
    with closing(model):
        yield model


def eval_logits(model: llama_cpp.Llama, prompt: Sequence[int], decode: Sequence[int] = ()) -> Logits:
    """Evaluates the prompt at once and then `decode` token by token: logits [len(prompt) + len(decode), n_vocab]."""
    model.reset()
    model.eval(prompt)
    for token in decode:
        model.eval([token])
    return np.array(model.scores[: model.n_tokens], dtype=np.float32)


def stock_logits(
    path: Path,
    prompt: Sequence[int],
    decode: Sequence[int] = (),
    *,
    n_threads: int = 1,
    n_ctx: int = N_CTX,
    n_batch: int = 512,
    n_ubatch: int = 512,
) -> Logits:
    """`eval_logits` of the stock model."""
    with stock_llama(path, n_threads=n_threads, n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch) as model:
        return eval_logits(model, prompt, decode)


@contextmanager
def truncated(path: Path, n_bytes: int) -> Iterator[None]:
    """While it lasts the file is shorter; the same file, so what is open stays open.

    The time of its last change is restored as well: a file that was written to is not read any more.
    """
    content, stat = path.read_bytes(), path.stat()
    os.truncate(path, n_bytes)
    try:
        yield
    finally:
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def expert_bytes_by_layer(path: Path) -> dict[int, int]:
    """Bytes of one expert (all its matrices) for every layer that has experts; `path` is a single-file GGUF."""
    sizes: dict[int, int] = defaultdict(int)
    for tensor in GGUFReader(path).tensors:
        if match := _EXPERT_TENSOR.fullmatch(tensor.name):
            sizes[int(match[1])] += int(tensor.n_bytes) // int(tensor.shape[2])
    return dict(sizes)


def expert_counts(path: Path) -> tuple[int, int]:
    """(experts of a layer, experts used by a token) from the metadata; (0, 0) for a dense model."""
    fields = GGUFReader(path).fields
    arch = fields["general.architecture"].contents()
    if f"{arch}.expert_count" not in fields:
        return 0, 0
    n_expert = fields[f"{arch}.expert_count"].contents()
    n_expert_used = fields[f"{arch}.expert_used_count"].contents()
    return int(n_expert), int(n_expert_used)


def assert_identical(found: Logits, expected: Logits) -> None:
    assert found.shape == expected.shape
    if not np.array_equal(found, expected):
        differs = (found != expected).any(axis=1)
        pytest.fail(
            f"{differs.sum()} of {len(found)} tokens differ from stock, the first is token {differs.argmax()}, "
            f"max abs difference {np.abs(found - expected).max()}"
        )


class Context:
    """A further context of a model, driven by hand."""

    def __init__(self, llama: hobbit_py.Llama) -> None:
        self._native = _host.new_context(llama._model, llama.context_params)
        self._batch = internals.LlamaBatch(n_tokens=512, embd=0, n_seq_max=1, verbose=False)
        self._n_vocab = llama.n_vocab()
        self._n_past = 0

    def eval(self, tokens: Sequence[int]) -> Logits:
        self._batch.set_batch(batch=tokens, n_past=self._n_past, logits_all=True)
        self._native.decode(self._batch)
        self._n_past += len(tokens)
        rows = np.ctypeslib.as_array(self._native.get_logits(), shape=(len(tokens), self._n_vocab))
        return np.array(rows, dtype=np.float32)

    def close(self) -> None:
        self._batch.close()
        self._native.close()


@contextmanager
def contexts(llama: hobbit_py.Llama, n: int) -> Iterator[list[Context]]:
    made = [Context(llama) for _ in range(n)]
    try:
        yield made
    finally:
        for context in made:
            context.close()


class ArenaSize(Enum):
    """How much of a model's experts is allowed in memory."""

    ONE_TOKEN = "one token of one layer"
    QUARTER = "a quarter of the experts"
    ALL = "everything"


def arena_bytes(path: Path, size: ArenaSize) -> int:
    """A value for `expert_memory`. Counts the alignment padding that a direct read may need around every matrix."""
    padding = 3 * 2 * 4096
    slot_bytes = [n_bytes + padding for n_bytes in expert_bytes_by_layer(path).values()]
    n_expert, n_expert_used = expert_counts(path)
    if size is ArenaSize.ONE_TOKEN:
        return n_expert_used * max(slot_bytes)
    n_bytes = n_expert * sum(slot_bytes)
    return n_bytes if size is ArenaSize.ALL else n_bytes // 4


class _TensorHead(ctypes.Structure):
    """The beginning of ggml_tensor."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
    )


def _ggml() -> ctypes.CDLL:
    libggml: ctypes.CDLL = llama_cpp._ggml.libggml
    for function, result in (
        (libggml.ggml_get_name, ctypes.c_char_p),
        (libggml.ggml_get_data, ctypes.c_void_p),
        (libggml.ggml_op_desc, ctypes.c_char_p),
    ):
        function.restype = result
        function.argtypes = [ctypes.c_void_p]
    return libggml


def stock_importance(path: Path, prompt: Sequence[int]) -> dict[str, tuple[Logits, Logits]]:
    """Sums of products [n_expert, n_in, n_in] of what every expert tensor is multiplied with, and the rows [n_expert].

    From the stock model's graph over one prompt, as `llama-imatrix` collects them.
    """
    libggml = _ggml()
    sums: dict[str, tuple[Logits, Logits]] = {}

    def on_tensor(tensor: int, ask: bool, _user_data: int) -> bool:
        if libggml.ggml_op_desc(tensor) != b"MUL_MAT_ID":
            return False
        if not ask:
            weight, inputs, ids = (_TensorHead.from_address(tensor).src[i] for i in range(3))
            add(libggml.ggml_get_name(weight).decode(), _TensorHead.from_address(weight), inputs, ids)
        return True

    def add(name: str, weight: _TensorHead, inputs: int, ids: int) -> None:
        n_in, n_expert = weight.ne[0], weight.ne[2]
        products, n_rows = sums.setdefault(
            name, (np.zeros((n_expert, n_in, n_in), np.float32), np.zeros(n_expert, np.float32))
        )
        x, chosen = _TensorHead.from_address(inputs), _TensorHead.from_address(ids)
        x_data, id_data = libggml.ggml_get_data(inputs), libggml.ggml_get_data(ids)
        for token in range(chosen.ne[1]):
            for i in range(chosen.ne[0]):
                expert_idx = ctypes.c_int32.from_address(id_data + token * chosen.nb[1] + 4 * i).value
                row = (ctypes.c_float * n_in).from_address(
                    x_data + token * x.nb[2] + (i * x.nb[1] if x.ne[1] > 1 else 0)
                )
                products[expert_idx] += np.outer(row, row)
                n_rows[expert_idx] += 1

    callback = bindings.ggml_backend_sched_eval_callback(on_tensor)
    with stock_llama(path, eval_callback=callback) as model:
        model.eval(prompt)
    return sums


def stock_selected_experts(path: Path, prompt: Sequence[int]) -> dict[int, set[int]]:
    """The experts that each layer selects over the prompt, as the stock model's graph computes them.

    A layer that selects twice (grovemoe) counts with its first selection.
    """
    libggml = _ggml()
    selected: dict[int, set[int]] = {}

    def on_tensor(tensor: int, ask: bool, _user_data: int) -> bool:
        match = _TOPK_TENSOR.fullmatch(libggml.ggml_get_name(tensor).decode())
        if match is None or ask:
            return match is not None
        head = _TensorHead.from_address(tensor)
        layer_idx, (n_used, n_tokens) = int(match[1]), head.ne[:2]
        if layer_idx not in selected:
            # A view of all experts sorted by score: its rows lie n_expert ids apart.
            first = libggml.ggml_get_data(tensor)
            rows = ((ctypes.c_int32 * n_used).from_address(first + row * head.nb[1]) for row in range(n_tokens))
            selected[layer_idx] = {expert_idx for row in rows for expert_idx in row}
        return True

    callback = bindings.ggml_backend_sched_eval_callback(on_tensor)
    with stock_llama(path, eval_callback=callback) as model:
        model.eval(prompt)
    return selected
