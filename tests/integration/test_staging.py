"""Batches on a device with memory of its own are llama.cpp's products over all of a layer's experts (docs/gpu.md).

The CPU stands for the device, as in test_device_tier.py. There the sums do not depend on how experts are multiplied by,
so what is shown here is that the right experts are in the right places at the right time.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
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
    Logits,
    ModelFactory,
    StockReference,
    arena_bytes,
    assert_identical,
    eval_logits,
    expert_bytes_by_layer,
    make_prompt,
    truncated,
)
from tiny_models import split_model

import hobbit_py
from hobbit_py import _memory_plan
from hobbit_py._host import _core

N_PARTS = 3
DECODE = make_prompt(4, seed=1)


@contextmanager
def staged_llama(
    path: Path,
    *,
    vram: ArenaSize | None = ArenaSize.ONE_TOKEN,
    memory: ArenaSize | None = ArenaSize.ALL,
    **keywords: Any,
) -> Iterator[hobbit_py.Llama]:
    budgets = {
        "expert_vram": 0 if vram is None else arena_bytes(path, vram),
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


@pytest.fixture
def staging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it takes: tiny models have so few layers that the area is a large part of the budgets of these tests."""
    monkeypatch.setattr(_memory_plan, "has_staging", lambda _staging_bytes, _slots_bytes: True)


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


@pytest.mark.usefixtures("staging")
@pytest.mark.parametrize("vram", [None, ArenaSize.ONE_TOKEN, ArenaSize.QUARTER])
@pytest.mark.parametrize(("n_prompt", "host_compute"), [(2, False), (7, False), (9, True), (64, True), (64, False)])
@pytest.mark.parametrize("arch", ["qwen3moe", "llama", "gpt-oss", "deepseek2-fused", "lfm2moe", "grovemoe"])
def test_architectures(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    arch: str,
    n_prompt: int,
    host_compute: bool,
    vram: ArenaSize | None,
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


@pytest.mark.usefixtures("staging")
@pytest.mark.parametrize("n_tokens", [1, 2, 8])
def test_a_few_tokens_have_the_hosts_help(tiny_model: ModelFactory, n_tokens: int) -> None:
    with staged_llama(tiny_model("qwen3moe")) as model:
        checked_logits(model, make_prompt(n_tokens))
        assert model.stats().n_staged_parts == 0


@pytest.mark.usefixtures("staging", "options")
@pytest.mark.parametrize("vram", [None, ArenaSize.QUARTER])
def test_prompts_copy_ahead(tiny_model: ModelFactory, stock_reference: StockReference, vram: ArenaSize | None) -> None:
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


@pytest.mark.usefixtures("staging")
@pytest.mark.parametrize("vram", [None, ArenaSize.ONE_TOKEN])
def test_a_batch_that_selects_few_experts(
    tiny_model: ModelFactory, stock_reference: StockReference, vram: ArenaSize | None
) -> None:
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


@pytest.mark.usefixtures("staging")
@pytest.mark.parametrize("n_ubatch", [16, 48])
def test_several_batches(tiny_model: ModelFactory, stock_reference: StockReference, n_ubatch: int) -> None:
    path = tiny_model("llama")
    prompt = make_prompt(100)
    with staged_llama(path, vram=ArenaSize.QUARTER, n_ubatch=n_ubatch) as model:
        for _ in range(2):
            logits = checked_logits(model, prompt, DECODE)
        assert model.stats().n_staged_parts > 0
    assert_identical(logits, stock_reference(path, prompt, DECODE, n_ubatch=n_ubatch))


@pytest.mark.usefixtures("staging")
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


@pytest.mark.usefixtures("staging")
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


@pytest.mark.usefixtures("staging")
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
        "expert_vram": arena_bytes(whole, ArenaSize.ONE_TOKEN),
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


@pytest.mark.usefixtures("staging")
def test_layers_of_several_sizes(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    """Places are elsewhere in each, and padding in one lies where weights of the other were."""
    types = ("Q4_K", "Q8_0", "Q4_K", "Q8_0")
    path = tiny_model("qwen3moe", n_layer=4, experts_quant=types, down_quant=("Q8_0", "F16", "F16", "Q4_0"))
    prompt = make_prompt(64)
    with staged_llama(path, vram=ArenaSize.QUARTER) as model:
        for _ in range(2):
            logits = checked_logits(model, prompt, DECODE)
        assert model.stats().n_staged_parts > 0
    assert_identical(logits, stock_reference(path, prompt, DECODE))


@pytest.mark.usefixtures("staging")
def test_mixed_precision_does_without(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    lo = tiny_model("qwen3moe", experts_quant="Q4_0")
    with staged_llama(path, precision="mixed", lo=lo) as model:
        checked_logits(model, make_prompt(64))
        assert model.stats().n_device_misses > 0
        assert model.stats().n_staged_parts == 0


@pytest.mark.parametrize(("n_layer", "is_staged"), [(3, False), (16, True)])
def test_the_area_is_at_most_as_large_as_the_slots(
    tiny_model: ModelFactory, stock_reference: StockReference, n_layer: int, is_staged: bool
) -> None:
    """A quarter of the experts is less than a layer's, or more."""
    path = tiny_model("llama", n_layer=n_layer)
    prompt = make_prompt(32)
    with staged_llama(path, vram=ArenaSize.QUARTER) as model:
        logits = checked_logits(model, prompt, DECODE)
        stats = model.stats()
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert (stats.n_staged_parts > 0) == is_staged
    assert stats.n_device_parts > 0


def test_what_fits_whole_is_not_staged(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    path = tiny_model("llama")
    prompt = make_prompt(32)
    with staged_llama(path, vram=ArenaSize.ALL) as model:
        logits = checked_logits(model, prompt, DECODE)
        assert model.stats().n_device_parts == 0
    assert_identical(logits, stock_reference(path, prompt, DECODE))
