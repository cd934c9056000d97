"""Exact mode equals stock llama.cpp bit for bit, for models, budgets, policies and interleavings drawn by hypothesis.

Two sequences share a context: each batch has tokens of one of them or of both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from llama_cpp import Llama as StockLlama
from llama_cpp import _internals as internals
from support import ArenaSize, Logits, arena_bytes, make_prompt, stock_llama
from tiny_models import ARCHITECTURES, QUANT_TYPES, write_model

import hobbit_py
from hobbit_py import _host
from hobbit_py.policies.eviction import BUILT_INS

# Their caches cannot be shared by two sequences of different lengths in one batch, stock or not.
_RECURRENT = ("lfm2moe",)
_ARCHS = tuple(arch for arch in ARCHITECTURES if arch not in _RECURRENT)
_QUANTS = tuple(q for q in ("Q8_0", "Q4_0", "Q4_K", "Q6_K", "Q2_K", "F16", "IQ4_NL") if q in QUANT_TYPES)
_N_CTX = 1024

Batch = tuple[tuple[int, int], ...]  # (sequence, tokens)


@dataclass(frozen=True)
class Example:
    arch: str
    quant: str
    n_layer: int
    n_expert: int
    n_used: int
    memory_percent: int
    eviction: str
    prefetch: bool | str
    n_ubatch: int
    n_threads: int
    batches: tuple[Batch, ...]


@st.composite
def examples(draw: st.DrawFn) -> Example:
    arch = draw(st.sampled_from(_ARCHS))
    grouped = arch in ("deepseek2", "glm4moe", "bailingmoe2", "grovemoe", "llama4", "ernie4_5-moe")
    n_tokens = st.one_of(st.integers(1, 9), st.sampled_from([16, 33, 64]))
    one = st.builds(lambda s, n: ((s, n),), st.integers(0, 1), n_tokens)
    both = st.builds(lambda a, b: ((0, a), (1, b)), n_tokens, n_tokens)
    n_expert = 0 if grouped else draw(st.sampled_from([2, 3, 4, 8, 16]))
    return Example(
        arch=arch,
        quant=draw(st.sampled_from(_QUANTS)),
        # Some families have layers of several kinds, in numbers of their own.
        n_layer=0 if grouped or arch == "lfm2moe" else draw(st.integers(1, 3)),
        n_expert=n_expert,
        n_used=0 if grouped else draw(st.integers(1, min(4, n_expert))),
        memory_percent=draw(st.sampled_from([0, 5, 10, 25, 50, 75, 100])),
        eviction=draw(st.sampled_from(sorted(BUILT_INS))),
        prefetch=draw(st.sampled_from([True, False, "previous-token"])),
        n_ubatch=draw(st.sampled_from([1, 3, 8, 16, 64])),
        n_threads=draw(st.integers(1, 2)),
        batches=tuple(draw(st.lists(st.one_of(one, both), min_size=1, max_size=6))),
    )


class Context:
    """A context of two sequences, driven by hand: every token's logits are kept."""

    def __init__(self, llama: StockLlama, example: Example) -> None:
        params = type(llama.context_params).from_buffer_copy(llama.context_params)
        params.n_seq_max, params.n_ubatch, params.kv_unified = 2, example.n_ubatch, True
        if isinstance(llama, hobbit_py.Llama) and llama._engine is not None:
            self._native = _host.new_context(llama._model, params)
        else:
            self._native = internals.LlamaContext(model=llama._model, params=params, verbose=False)
        self._batch = internals.LlamaBatch(n_tokens=_N_CTX, embd=0, n_seq_max=2, verbose=False)
        self._n_vocab = llama.n_vocab()

    def run(self, batches: Sequence[Batch]) -> Logits:
        n_past = [0, 0]
        rows = []
        for number, batch in enumerate(batches):
            native = self._batch.batch
            native.n_tokens = 0
            for sequence, n_tokens in batch:
                for token in make_prompt(n_tokens, seed=7 * number + sequence):
                    i = native.n_tokens
                    native.token[i], native.pos[i] = token, n_past[sequence]
                    native.n_seq_id[i], native.seq_id[i][0], native.logits[i] = 1, sequence, 1
                    native.n_tokens += 1
                    n_past[sequence] += 1
            self._native.decode(self._batch)
            logits = np.ctypeslib.as_array(self._native.get_logits(), shape=(native.n_tokens, self._n_vocab))
            rows.append(np.array(logits, dtype=np.float32))
        return np.concatenate(rows)

    def close(self) -> None:
        self._batch.close()
        self._native.close()


@contextmanager
def _hobbit(path: Path, example: Example) -> Iterator[hobbit_py.Llama]:
    options: dict[str, Any] = {
        "expert_memory": arena_bytes(path, ArenaSize.ALL) * example.memory_percent // 100,
        "eviction": example.eviction,
        "prefetch": example.prefetch,
        "precision": "exact",
        "n_ctx": _N_CTX,
        "n_ubatch": example.n_ubatch,
        "n_threads": example.n_threads,
        "logits_all": True,
    }
    with closing(hobbit_py.Llama(path, **options)) as llama:
        yield llama


class Property:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()

    def check(self, example: Example) -> None:
        path = self.folder / "model.gguf"
        sizes = {"n_layer": example.n_layer, "n_expert": example.n_expert, "n_expert_used": example.n_used}
        write_model(path, example.arch, quant=example.quant, **{name: n or None for name, n in sizes.items()})
        options = {"n_threads": example.n_threads, "n_ctx": _N_CTX, "n_ubatch": example.n_ubatch}
        with stock_llama(path, **options) as stock, closing(Context(stock, example)) as context:
            expected = context.run(example.batches)
        with _hobbit(path, example) as llama, closing(Context(llama, example)) as context:
            found = context.run(example.batches)
            assert llama._engine is not None
            llama._engine.check_invariants()
            stats = llama.stats()
        assert np.array_equal(found, expected), f"{(found != expected).any(axis=1).sum()} rows differ"
        self.counts["examples"] += 1
        self.counts["rows of logits"] += len(found)
        self.counts[f"architecture {example.arch}"] += 1
        self.counts["experts streamed"] += stats.n_streamed
        self.counts["evictions"] += stats.n_evictions


def run(options: argparse.Namespace) -> int:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hobbit-exactness.") as folder:
        checked = Property(Path(folder))

        @seed(options.seed)
        @settings(
            max_examples=options.count,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.normal,
            print_blob=True,
        )
        @given(examples())
        def equals_stock(example: Example) -> None:
            checked.check(example)

        try:
            equals_stock()
            status = 0
        except BaseException:
            print(f"property: broken after {checked.counts['examples']} examples, seed {options.seed}", flush=True)
            raise
    print(f"property: {options.count} examples, seed {options.seed}, {time.monotonic() - start:.0f} s")
    for name, count in sorted(checked.counts.items()):
        print(f"  {count:8d} {name}")
    return status


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("--count", type=int, default=500, help="examples")
    return run
