"""Batches on a GPU that shares the host's memory are llama.cpp's products over all of a layer's experts (docs/gpu.md).

The CPU stands for the device. Its sums do not depend on how experts are multiplied by, so what is shown here is that
the right experts are in the right places at the right time.
"""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from support import (
    N_CTX,
    ArenaSize,
    Context,
    Logits,
    ModelFactory,
    StockReference,
    arena_bytes,
    assert_identical,
    contexts,
    eval_logits,
    make_prompt,
    truncated,
)

import hobbit_py

ARCHITECTURES = ["qwen3moe", "llama", "gpt-oss", "deepseek2-fused", "lfm2moe", "grovemoe"]
DECODE = make_prompt(4, seed=1)


@contextmanager
def unified_llama(path: Path, memory: ArenaSize | None, **keywords: Any) -> Iterator[hobbit_py.Llama]:
    with closing(
        hobbit_py.Llama(
            str(path),
            device="CPU",
            unified=True,
            n_ctx=N_CTX,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            **({"expert_memory": 0 if memory is None else arena_bytes(path, memory)} | keywords),
        )
    ) as model:
        yield model


def n_unified_steps(model: hobbit_py.Llama) -> int:
    assert model._engine is not None
    return model._engine.step_counters().n_unified_steps


@pytest.mark.parametrize("memory", [None, ArenaSize.QUARTER, ArenaSize.ALL])
@pytest.mark.parametrize(("n_prompt", "host_compute"), [(2, False), (7, False), (9, True), (64, True)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architectures(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    arch: str,
    n_prompt: int,
    host_compute: bool,
    memory: ArenaSize | None,
) -> None:
    path = tiny_model(arch)
    prompt = make_prompt(n_prompt)
    with unified_llama(path, memory, host_compute=host_compute, prefetch=False) as model:
        for _ in range(2):  # other experts are resident
            logits = eval_logits(model, prompt, DECODE)
        assert n_unified_steps(model) > 0
        assert model._engine is not None
        model._engine.check_invariants()
    assert_identical(logits, stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("memory", [ArenaSize.QUARTER, ArenaSize.ALL])
def test_while_experts_are_read_in_the_background(
    tiny_model: ModelFactory, stock_reference: StockReference, memory: ArenaSize
) -> None:
    path = tiny_model("qwen3moe")
    prompt = make_prompt(64)
    with unified_llama(path, memory) as model:
        assert_identical(eval_logits(model, prompt, DECODE), stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("memory", [ArenaSize.QUARTER, ArenaSize.ALL])
def test_sizes_of_several_classes(tiny_model: ModelFactory, stock_reference: StockReference, memory: ArenaSize) -> None:
    path = tiny_model("qwen3moe", n_layer=4, experts_quant=("Q4_K", "Q8_0") * 2)
    prompt = make_prompt(64)
    with unified_llama(path, memory) as model:
        for _ in range(2):
            logits = eval_logits(model, prompt, DECODE)
        if memory is ArenaSize.QUARTER:
            assert n_unified_steps(model) > 0
    assert_identical(logits, stock_reference(path, prompt, DECODE))


def test_a_few_tokens_are_multiplied_where_they_lie(tiny_model: ModelFactory) -> None:
    with unified_llama(tiny_model("qwen3moe"), ArenaSize.QUARTER) as model:
        eval_logits(model, make_prompt(8), DECODE)
        assert n_unified_steps(model) == 0


def test_no_area_with_lo_copies(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    lo = tiny_model("qwen3moe", experts_quant="Q4_0")
    with unified_llama(path, ArenaSize.QUARTER, precision="mixed", lo=lo) as model:
        eval_logits(model, make_prompt(64))
        assert model._engine is not None
        assert model._engine.layer_area_bytes == 0
        assert n_unified_steps(model) == 0


@pytest.mark.parametrize("memory", [None, ArenaSize.QUARTER, ArenaSize.ALL])
def test_several_contexts(tiny_model: ModelFactory, stock_reference: StockReference, memory: ArenaSize | None) -> None:
    """The area is one's at a time."""
    path = tiny_model("qwen3moe")
    prompts = [make_prompt(48, seed=seed) for seed in range(3)]
    start = threading.Barrier(len(prompts))

    def run(context: Context, prompt: list[int]) -> Logits:
        start.wait()
        return np.concatenate([context.eval(prompt), *(context.eval([token]) for token in DECODE)])

    with unified_llama(path, memory) as llama, contexts(llama, len(prompts)) as all_contexts:
        with ThreadPoolExecutor(len(prompts)) as pool:
            found = list(pool.map(run, all_contexts, prompts))
        if memory is ArenaSize.QUARTER:  # else graphs run whole as soon as all experts were read in the background
            assert n_unified_steps(llama) > 0
    for logits, prompt in zip(found, prompts, strict=True):
        assert_identical(logits, stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("memory", [None, ArenaSize.QUARTER, ArenaSize.ALL])
def test_the_drive_fails(
    tiny_model: ModelFactory, stock_reference: StockReference, tmp_path: Path, memory: ArenaSize | None
) -> None:
    """The request does, and the next one has the area."""
    path = Path(shutil.copy(tiny_model("qwen3moe"), tmp_path / "model.gguf"))
    prompt = make_prompt(64)
    end = min(int(t.data_offset) for t in GGUFReader(path).tensors if "_exps" in t.name) + 1000
    with unified_llama(path, memory, prefetch=False) as model:
        with truncated(path, end), pytest.raises(hobbit_py.ReadError):
            eval_logits(model, prompt)
        logits = eval_logits(model, prompt, DECODE)
        assert model._engine is not None
        model._engine.check_invariants()
    assert_identical(logits, stock_reference(tiny_model("qwen3moe"), prompt, DECODE))


def test_the_least_memory_has_room_for_the_area(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe", n_expert=64)

    def floor_bytes(*, unified: bool) -> int:
        with pytest.raises(hobbit_py.MemoryBudgetError) as caught:
            hobbit_py.Llama(str(path), device="CPU", unified=unified, memory="1MiB", n_ctx=N_CTX)
        return caught.value.floor_bytes

    floor = floor_bytes(unified=True)
    assert floor >= floor_bytes(unified=False)
    with closing(hobbit_py.Llama(str(path), device="CPU", unified=True, memory=floor, n_ctx=N_CTX)) as model:
        model.eval(make_prompt(64))
        assert n_unified_steps(model) > 0
