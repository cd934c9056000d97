"""Batches on a device with memory of its own are llama.cpp's products over all of a layer's experts (docs/gpu.md).

The CPU stands for the device, as in test_device_tier.py. There the sums do not depend on how experts are multiplied by,
so what is shown here is that the right experts are in the right places at the right time.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
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
    expert_bytes_by_layer,
    expert_counts,
    make_prompt,
    stock_llama,
    truncated,
)
from tiny_models import split_model

import hobbit_py
from hobbit_py._host import _core

N_PARTS = 3
DECODE = make_prompt(4, seed=1)


@lru_cache
def device_bytes(path: Path, n_layers: float) -> int:
    """A value for `expert_vram`: slots for the experts of so many of the layers, alike or a mean one."""
    with closing(hobbit_py.Llama(str(path), device="CPU", expert_vram=0, expert_memory=0, n_ctx=N_CTX)) as model:
        assert model._engine is not None
        return int(model._engine.all_device_bytes * n_layers / len(expert_bytes_by_layer(path)))


def expert_bytes_of_slots(path: Path, vram: int) -> int:
    """Of experts in as many slots as layers alike have, without padding."""
    n_expert, _ = expert_counts(path)
    return vram * n_expert * max(expert_bytes_by_layer(path).values())


@contextmanager
def staged_llama(
    path: Path, *, vram: float = 1, memory: ArenaSize | None = ArenaSize.ALL, **keywords: Any
) -> Iterator[hobbit_py.Llama]:
    budgets = {
        "expert_vram": device_bytes(path, vram),
        "expert_memory": 0 if memory is None else arena_bytes(path, memory),
    }
    with closing(
        hobbit_py.Llama(
            str(path),
            device="CPU",
            n_ctx=N_CTX,
            n_threads=1,
            n_threads_batch=1,
            **(budgets | {"logits_all": True} | keywords),
        )
    ) as model:
        yield model


def checked_logits(model: hobbit_py.Llama, prompt: Sequence[int], decode: Sequence[int] = ()) -> Logits:
    logits = eval_logits(model, prompt, decode)
    engine = model._engine
    assert engine is not None
    engine.check_tier_invariants()
    engine.check_invariants()
    return logits


@pytest.fixture(params=["default", "ring", "many chunks"])
def options(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decoding does with matrices of one use, and in how many pieces all are copied."""
    make = _core.TierOptions

    def tier_options() -> _core.TierOptions:
        made = make()
        if request.param == "ring":
            made.small_part_bytes = 0
        if request.param == "many chunks":
            made.chunk_bytes = 512
        return made

    monkeypatch.setattr(_core, "TierOptions", tier_options)


@pytest.mark.parametrize("vram", [1, 1.5])
@pytest.mark.parametrize(("n_prompt", "host_compute"), [(2, False), (7, False), (9, True), (64, True), (64, False)])
@pytest.mark.parametrize("arch", ["qwen3moe", "llama", "gpt-oss", "deepseek2-fused", "lfm2moe", "grovemoe"])
def test_architectures(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    arch: str,
    n_prompt: int,
    host_compute: bool,
    vram: float,
) -> None:
    path = tiny_model(arch)
    prompt = make_prompt(n_prompt)
    with staged_llama(path, vram=vram, host_compute=host_compute) as model:
        checked_logits(model, prompt)
        stats = model.stats()
        logits = checked_logits(model, prompt, DECODE)
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert stats.n_staged_parts > 0
    assert stats.n_staged_parts == stats.n_device_parts
    assert stats.n_host_parts == 0


@pytest.mark.parametrize("n_tokens", [1, 2, 8])
def test_a_few_tokens_have_the_hosts_help(tiny_model: ModelFactory, n_tokens: int) -> None:
    with staged_llama(tiny_model("qwen3moe")) as model:
        checked_logits(model, make_prompt(n_tokens))
        assert model.stats().n_staged_parts == 0


@pytest.mark.usefixtures("options")
@pytest.mark.parametrize("vram", [1, 2])
def test_prompts_copy_ahead(tiny_model: ModelFactory, stock_reference: StockReference, vram: int) -> None:
    path = tiny_model("qwen3moe")
    prompt = make_prompt(64)
    with staged_llama(path, vram=vram) as model:
        checked_logits(model, make_prompt(64, seed=2))  # from here on the experts are in main memory
        for seed in range(3):  # other experts are resident, other places are still in use
            prompt = make_prompt(64, seed=seed)
            before = model.stats()
            logits = checked_logits(model, prompt, DECODE)
            stats = model.stats().since(before)
            assert_identical(logits, stock_reference(path, prompt, DECODE))
            assert stats.n_ahead_parts > 0


@pytest.mark.parametrize("vram", [1, 2])
def test_a_batch_that_selects_few_experts(tiny_model: ModelFactory, stock_reference: StockReference, vram: int) -> None:
    """Each that is missing is copied once, and no other."""
    path = tiny_model("qwen3moe", n_expert=64)
    prompt = [5] * 12
    with staged_llama(path, vram=vram) as model:
        logits = checked_logits(model, prompt)
        stats = model.stats()
    assert_identical(logits, stock_reference(path, prompt))
    n_layers = len(expert_bytes_by_layer(path))
    assert stats.n_device_hits + stats.n_device_misses < 32 * n_layers
    assert stats.n_staged_parts == N_PARTS * stats.n_device_misses


@pytest.mark.parametrize("n_ubatch", [16, 48])
def test_several_batches(tiny_model: ModelFactory, stock_reference: StockReference, n_ubatch: int) -> None:
    path = tiny_model("llama")
    prompt = make_prompt(100)
    with staged_llama(path, vram=1.5, n_ubatch=n_ubatch) as model:
        for _ in range(2):
            logits = checked_logits(model, prompt, DECODE)
        assert model.stats().n_staged_parts > 0
    assert_identical(logits, stock_reference(path, prompt, DECODE, n_ubatch=n_ubatch))


def test_the_last_layer_of_a_prompt_computes_one_token(tiny_model: ModelFactory) -> None:
    """Where nobody asks for the logits of the others. What was begun for it in the area is of no use."""
    path = tiny_model("qwen3moe")

    def last_logits(model: hobbit_py.Llama) -> list[npt.NDArray[np.float32]]:
        found = []
        for tokens in ([], make_prompt(64), make_prompt(64, seed=2), DECODE):  # the first is for the memory
            model.reset()
            model.eval(tokens or make_prompt(64))
            logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
            found.append(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).copy())
        return found

    with staged_llama(path, logits_all=False) as model:
        found = last_logits(model)
        stats = model.stats()
        assert model._engine is not None
        model._engine.check_tier_invariants()
    assert 0 < stats.n_staged_parts < stats.n_device_parts + stats.n_host_parts
    with closing(
        hobbit_py.Llama(str(path), expert_memory=arena_bytes(path, ArenaSize.ALL), n_ctx=N_CTX, n_threads=1)
    ) as model:
        assert_identical(np.array(found), np.array(last_logits(model)))


@pytest.mark.parametrize("memory", [None, ArenaSize.ONE_TOKEN, ArenaSize.QUARTER])
def test_experts_from_the_drive(
    tiny_model: ModelFactory, stock_reference: StockReference, memory: ArenaSize | None
) -> None:
    path = tiny_model("qwen3moe")
    prompt = make_prompt(64)
    with staged_llama(path, memory=memory) as model:
        for _ in range(2):
            logits = checked_logits(model, prompt, DECODE)
        assert model.stats().n_staged_parts > 0
    assert_identical(logits, stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("memory", [None, ArenaSize.QUARTER])
def test_a_prompt_that_fails_half_way(
    tiny_model: ModelFactory, stock_reference: StockReference, tmp_path: Path, memory: ArenaSize | None
) -> None:
    """What was on its way to the area is not left there: the next prompt finds its own."""
    whole = tiny_model("qwen3moe", n_layer=4)
    parts = split_model(Path(shutil.copy(whole, tmp_path / "model.gguf")), 3)
    last_experts = min(int(t.data_offset) for t in GGUFReader(parts[2]).tensors if "_exps" in t.name)
    prompt = make_prompt(64)
    budgets = {
        "expert_vram": device_bytes(whole, 1),
        "expert_memory": 0 if memory is None else arena_bytes(whole, memory),
    }
    with staged_llama(parts[0], **budgets, prefetch=False) as model:
        with truncated(parts[2], last_experts):
            for seed in range(2):
                with pytest.raises(hobbit_py.ReadError):
                    eval_logits(model, make_prompt(64, seed=seed))
        assert model.stats().n_staged_parts > 0
        logits = checked_logits(model, prompt, DECODE)
    assert_identical(logits, stock_reference(whole, prompt, DECODE))


@pytest.mark.parametrize(
    ("down_quant", "vram", "n_staged_layers"), [("Q4_0", 3.2, 6), ("F16", 3.2, 5), ("F16", 3.5, 6)]
)
def test_layers_of_several_sizes(
    tiny_model: ModelFactory, stock_reference: StockReference, down_quant: str, vram: float, n_staged_layers: int
) -> None:
    """Each size lends its own slots. One that has but half a layer's, if there is no memory for one of each size, goes
    the way of tokens."""
    path = tiny_model(
        "qwen3moe",
        n_layer=6,
        experts_quant=("Q4_K", "Q8_0") * 3,
        down_quant=("Q8_0", "Q4_0", "Q8_0", "Q4_0", "Q8_0", down_quant),
    )
    prompt = make_prompt(64)
    with staged_llama(path, vram=vram) as model:
        assert (model.note is None) == (n_staged_layers == 6)
        for _ in range(2):
            logits = checked_logits(model, prompt, DECODE)
        before = model.stats()
        eval_logits(model, prompt)
        stats = model.stats().since(before)
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert stats.n_staged_parts > 0
    assert (stats.n_staged_parts < stats.n_device_parts) == (n_staged_layers < 6)


def test_mixed_precision_does_without(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    lo = tiny_model("qwen3moe", experts_quant="Q4_0")
    with staged_llama(path, precision="mixed", lo=lo, lo_share=0.0) as model:
        checked_logits(model, make_prompt(64))
        assert model.stats().n_device_misses > 0
        assert model.stats().n_staged_parts == 0


@pytest.mark.parametrize(("n_slots_less", "is_staged"), [(0, True), (1, False)])
def test_as_many_slots_as_a_layer_has_experts_are_enough(
    tiny_model: ModelFactory, stock_reference: StockReference, n_slots_less: int, is_staged: bool
) -> None:
    path = tiny_model("llama")
    n_expert, _ = expert_counts(path)
    prompt = make_prompt(32)
    with staged_llama(path, vram=1 - n_slots_less / n_expert) as model:
        logits = checked_logits(model, prompt, DECODE)
        stats = model.stats()
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert (stats.n_staged_parts > 0) == is_staged
    assert stats.n_device_parts > 0


def test_what_fits_whole_is_not_staged(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    path = tiny_model("llama")
    prompt = make_prompt(32)
    with staged_llama(path, vram=len(expert_bytes_by_layer(path))) as model:
        logits = checked_logits(model, prompt, DECODE)
        assert model.stats().n_device_parts == 0
    assert_identical(logits, stock_reference(path, prompt, DECODE))


@pytest.mark.usefixtures("options")
@pytest.mark.parametrize("memory", [ArenaSize.QUARTER, ArenaSize.ALL])
@pytest.mark.parametrize("vram", [1, 1.5, 2])
def test_prompts_and_tokens_in_turn(tiny_model: ModelFactory, vram: float, memory: ArenaSize) -> None:
    """In one sequence: slots are lent, taken back and lent again."""
    path = tiny_model("qwen3moe")

    def logits(model: llama_cpp.Llama) -> Logits:
        model.reset()
        for seed in range(3):
            model.eval(make_prompt(24, seed=seed))
            for token in make_prompt(9, seed=seed + 10):
                model.eval([token])
        return np.array(model.scores[: model.n_tokens], dtype=np.float32)

    with staged_llama(path, vram=vram, memory=memory) as model:
        found = logits(model)
        assert model.stats().n_staged_parts > 0
        assert model._engine is not None
        model._engine.check_tier_invariants()
    with stock_llama(path) as model:
        assert_identical(found, logits(model))


def test_what_was_resident_comes_back(tiny_model: ModelFactory) -> None:
    """Also what the tokens behind the prompt do not use: they are one and the same."""
    path = tiny_model("qwen3moe")

    def resident_bytes() -> int:
        return model.stats().resident_bytes_device

    def decode_until(n_bytes: int, tokens: Sequence[int]) -> None:
        for token in tokens:
            if resident_bytes() >= n_bytes:
                break
            model.eval([token])
            time.sleep(0.01)  # the copies are not waited for
        assert resident_bytes() == n_bytes

    with staged_llama(path, vram=2) as model:
        prompt = make_prompt(32)
        model.eval(prompt)
        all_bytes = expert_bytes_of_slots(path, vram=2)
        decode_until(all_bytes, make_prompt(400))  # of all kinds, which miss nearly every expert
        before = model.stats()  # of what comes back the first may be under way when the prompt ends
        model.eval(prompt)
        displaced_bytes = all_bytes - resident_bytes()
        assert displaced_bytes > 0
        n_staged_parts = model.stats().n_staged_parts
        decode_until(all_bytes, [5] * 400)
        n_promoted = model.stats().since(before).n_promoted
        n_expert, _ = expert_counts(path)
        assert n_promoted * all_bytes >= displaced_bytes * 2 * n_expert
        assert model.stats().n_staged_parts == n_staged_parts


@pytest.mark.parametrize("vram", [1, 2])
def test_several_contexts(tiny_model: ModelFactory, stock_reference: StockReference, vram: int) -> None:
    """One's prompts borrow slots that others use to decode."""
    path = tiny_model("qwen3moe")
    prompts = [make_prompt(48, seed=seed) for seed in range(3)]
    start = threading.Barrier(len(prompts))

    def run(context: Context, prompt: list[int]) -> Logits:
        start.wait()
        return np.concatenate([context.eval(prompt), *(context.eval([token]) for token in DECODE * 4)])

    with staged_llama(path, vram=vram) as llama, contexts(llama, len(prompts)) as all_contexts:
        with ThreadPoolExecutor(len(prompts)) as pool:
            found = list(pool.map(run, all_contexts, prompts))
        assert llama.stats().n_staged_parts > 0
        assert llama._engine is not None
        llama._engine.check_tier_invariants()
    for logits, prompt in zip(found, prompts, strict=True):
        assert_identical(logits, stock_reference(path, prompt, DECODE * 4))
