"""Several models, and several contexts of one model, in one process: each computes what stock llama.cpp computes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import llama_cpp
import numpy as np
import pytest
from support import (
    ArenaSize,
    Context,
    Logits,
    ModelFactory,
    StockReference,
    arena_bytes,
    contexts,
    eval_logits,
    make_prompt,
)

import hobbit_py
from hobbit_py import _host, _promises
from hobbit_py._promises import process_bytes, unfilled_bytes

N_CTX = 1024
DECODE = make_prompt(8, seed=1)


def load(path: object, expert_memory: int, **options: object) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        str(path),
        expert_memory=expert_memory,
        precision="exact",
        n_ctx=N_CTX,
        n_threads=1,
        n_ubatch=512,
        logits_all=True,
        **options,
    )


def test_two_models(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    paths = [tiny_model("qwen3moe"), tiny_model("gpt-oss")]
    prompts = [make_prompt(64), make_prompt(7)]
    arena = ArenaSize.QUARTER
    with (
        closing(load(paths[0], arena_bytes(paths[0], arena))) as first,
        closing(load(paths[1], arena_bytes(paths[1], arena))) as second,
    ):
        for llama, path, prompt in [(first, paths[0], prompts[0]), (second, paths[1], prompts[1])] * 2:
            assert np.array_equal(eval_logits(llama, prompt, DECODE), stock_reference(path, prompt, DECODE))
        first.close()
        assert np.array_equal(eval_logits(second, prompts[1]), stock_reference(paths[1], prompts[1]))


def test_one_file_twice_and_stock_in_between(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    path = tiny_model("qwen3moe")
    prompt = make_prompt(64)
    expected = stock_reference(path, prompt, DECODE)
    with (
        closing(load(path, arena_bytes(path, ArenaSize.ONE_TOKEN))) as scarce,
        closing(llama_cpp.Llama(str(path), n_ctx=64, n_gpu_layers=0, verbose=False)) as stock,
        closing(load(path, arena_bytes(path, ArenaSize.ALL))) as ample,
    ):
        assert type(stock._model) is _host._stock_model  # loading ours has left nothing behind
        stock.eval(prompt[:8])
        assert np.array_equal(eval_logits(scarce, prompt, DECODE), expected)
        assert np.array_equal(eval_logits(ample, prompt, DECODE), expected)
        assert scarce.stats().n_evictions > 0
        assert ample.stats().n_evictions == 0


def test_models_load_in_two_threads(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    paths = [tiny_model("qwen3moe"), tiny_model("olmoe")]
    prompt = make_prompt(7)

    def run(path: object) -> Logits:
        with closing(load(path, 1 << 20)) as llama:
            return eval_logits(llama, prompt, DECODE)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, paths))
    for path, logits in zip(paths, found, strict=True):
        assert np.array_equal(logits, stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("arena", ArenaSize)
def test_two_contexts_take_turns(tiny_model: ModelFactory, stock_reference: StockReference, arena: ArenaSize) -> None:
    path = tiny_model("qwen3moe")
    prompts = [make_prompt(64, seed=3), make_prompt(33, seed=4)]
    with closing(load(path, arena_bytes(path, arena))) as llama, contexts(llama, 2) as both:
        rows = [[context.eval(prompt)] for context, prompt in zip(both, prompts, strict=True)]
        for token in DECODE:
            for context, found in zip(both, rows, strict=True):
                found.append(context.eval([token]))
        # The model's own context is a third one.
        assert np.array_equal(eval_logits(llama, prompts[0], DECODE), stock_reference(path, prompts[0], DECODE))
        assert llama._engine is not None
        llama._engine.check_invariants()
    for found, prompt in zip(rows, prompts, strict=True):
        assert np.array_equal(np.concatenate(found), stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("arch", ["qwen3moe", "deepseek2"])
@pytest.mark.parametrize("arena", ArenaSize)
def test_two_contexts_at_once(
    tiny_model: ModelFactory, stock_reference: StockReference, arch: str, arena: ArenaSize
) -> None:
    """Two threads share one cache, one reader and one ring of stream buffers."""
    path = tiny_model(arch)
    prompts = [make_prompt(100, seed=3), make_prompt(64, seed=4)]
    start = threading.Barrier(2)

    def run(context: Context, prompt: list[int]) -> Logits:
        start.wait()
        return np.concatenate([context.eval(prompt), *(context.eval([token]) for token in DECODE * 4)])

    with closing(load(path, arena_bytes(path, arena))) as llama, contexts(llama, 2) as both:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(run, both, prompts))
        assert llama._engine is not None
        llama._engine.check_invariants()
    for logits, prompt in zip(found, prompts, strict=True):
        assert np.array_equal(logits, stock_reference(path, prompt, DECODE * 4))


def test_a_second_model_respects_what_the_first_may_still_fill(tiny_model: ModelFactory) -> None:
    """Budgets are of the whole process: an arena that is granted and not filled yet counts as taken."""
    path = tiny_model("qwen3moe", n_expert=64)
    # Nothing in the background: with room for everything the cache would fill between two looks at it.
    with closing(load(path, arena_bytes(path, ArenaSize.ALL), prefetch=False)) as first:
        granted = first.stats().expert_memory_bytes
        assert granted > 0
        assert unfilled_bytes() <= granted
        eval_logits(first, make_prompt(64))
        # Pages that are resident without an expert count as well: they are in what the process has already.
        assert unfilled_bytes() <= granted - first.stats().resident_bytes_hi < granted
    assert unfilled_bytes() == 0


def test_what_is_filled_while_it_is_counted_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are filled in the background, between the two looks as well."""
    n_filled = 0

    def fill_more() -> int:
        nonlocal n_filled
        n_filled += 30
        return n_filled - 30

    monkeypatch.setattr(_promises, "resident_bytes", lambda: 1000 + fill_more())
    monkeypatch.setattr(_promises, "unfilled_bytes", lambda: 100 - fill_more())
    assert process_bytes() >= 1100


def test_buffers_of_a_model_count_until_it_is_closed(tiny_model: ModelFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has computed nothing has touched neither its buffers nor the rows of its logits."""
    path = tiny_model("qwen3moe", n_expert=64)
    before_bytes = 1 << 30
    monkeypatch.setattr(_promises, "resident_bytes", lambda: before_bytes)  # the rest does not change between two looks
    with closing(load(path, 1 << 20)) as first:
        alone_bytes = process_bytes()
        rows_bytes = 2 * N_CTX * first.n_vocab() * 4
        assert alone_bytes > before_bytes + rows_bytes + first.stats().expert_memory_bytes
        with closing(load(path, 1 << 20)):
            both_bytes = process_bytes()
            assert both_bytes - alone_bytes > rows_bytes + first.stats().expert_memory_bytes
        assert process_bytes() == alone_bytes
        with closing(load(path, 1 << 20)) as third:
            assert process_bytes() == both_bytes
            first.close()
            # What the third was promised beside the first is not owed to the first any more.
            assert abs(process_bytes() - alone_bytes) <= third.stats().expert_memory_bytes
    assert process_bytes() == before_bytes
