"""A tier of its own above main memory never changes what exact mode computes.

The CPU stands for the device: its memory is then a second one that only the tier's copies write, and since both sides
run the same kernels, logits must be stock's bit for bit, whatever was copied, promoted or computed on the host.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from device_tier import tiered_llama
from support import (
    ArenaSize,
    Logits,
    ModelFactory,
    StockReference,
    arena_bytes,
    assert_identical,
    eval_logits,
    make_prompt,
    stock_llama,
)

import hobbit_py
from hobbit_py._host import _core
from hobbit_py._native_stats import HI
from hobbit_py.bundled import bundled_model
from hobbit_py.policies import AlwaysLow, WeightThresholds

DECODE = make_prompt(8, seed=1)


def one_token_llama(path: Path, *, host_compute: bool | None = True) -> hobbit_py.Llama:
    """With a device that holds the experts of a token, and main memory for all of them."""
    return tiered_llama(
        path,
        expert_vram=arena_bytes(path, ArenaSize.ONE_TOKEN),
        expert_memory=arena_bytes(path, ArenaSize.ALL),
        host_compute=host_compute,
    )


@pytest.mark.parametrize("host_compute", [False, True])
@pytest.mark.parametrize("vram", [None, *ArenaSize])
@pytest.mark.parametrize("n_prompt", [1, 7, 64])
@pytest.mark.parametrize("arch", ["qwen3moe", "llama", "gpt-oss", "deepseek2-fused", "lfm2moe", "grovemoe"])
def test_architectures(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    arch: str,
    n_prompt: int,
    vram: ArenaSize | None,
    host_compute: bool,
) -> None:
    path = tiny_model(arch)
    prompt = make_prompt(n_prompt)
    expert_vram = 0 if vram is None else arena_bytes(path, vram)
    expert_memory = arena_bytes(path, ArenaSize.ALL)
    with closing(
        tiered_llama(path, expert_vram=expert_vram, expert_memory=expert_memory, host_compute=host_compute)
    ) as model:
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
        engine = model._engine
        assert engine is not None
        engine.check_tier_invariants()
        engine.check_invariants()
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert stats.resident_bytes_device <= expert_vram
    if vram is ArenaSize.ALL:
        assert stats.n_device_misses == 0
    else:
        assert stats.n_device_misses > 0
        assert stats.n_device_parts + stats.n_host_parts > 0
    if not host_compute:
        assert stats.n_host_parts == 0
    if vram is None:
        assert stats.n_promoted == 0


@pytest.mark.parametrize("host_compute", [False, True])
@pytest.mark.parametrize("memory", [None, ArenaSize.ONE_TOKEN, ArenaSize.QUARTER])
def test_three_tiers(
    tiny_model: ModelFactory, stock_reference: StockReference, memory: ArenaSize | None, host_compute: bool
) -> None:
    """Experts come from the drive through main memory, or only through its stream buffers."""
    path = tiny_model("qwen3moe")
    prompt = make_prompt(64)
    with closing(
        tiered_llama(
            path,
            expert_vram=arena_bytes(path, ArenaSize.ONE_TOKEN),
            expert_memory=0 if memory is None else arena_bytes(path, memory),
            host_compute=host_compute,
        )
    ) as model:
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert stats.read_bytes > 0
    assert stats.n_device_misses > 0


def test_later_sequences(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    path = tiny_model("llama")
    with closing(
        tiered_llama(
            path,
            expert_vram=arena_bytes(path, ArenaSize.QUARTER),
            expert_memory=arena_bytes(path, ArenaSize.ALL),
        )
    ) as model:
        for seed in range(3):
            prompt = make_prompt(20, seed=seed)
            assert_identical(eval_logits(model, prompt, DECODE), stock_reference(path, prompt, DECODE))
        assert model.stats().n_promoted > 0


def test_prompts_copy_ahead(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    """Each layer of a prompt finds its experts on the way already; what was copied for nothing is given back."""
    path = tiny_model("qwen3moe")
    prompt = make_prompt(64)
    with closing(one_token_llama(path)) as model:
        eval_logits(model, prompt, [])  # from here on the experts are in main memory
        model.reset()
        before = model.stats()
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats().since(before)
        assert model._engine is not None
        model._engine.check_tier_invariants()
        model._engine.check_invariants()
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert stats.read_bytes == 0
    assert 0 < stats.n_ahead_parts < stats.n_device_parts


@pytest.mark.usefixtures("one_use")
@pytest.mark.parametrize("n_prompt", [1, 7, 64])
@pytest.mark.parametrize("host_compute", [False, True])
def test_one_use(tiny_model: ModelFactory, stock_reference: StockReference, n_prompt: int, host_compute: bool) -> None:
    path = tiny_model("qwen3moe")
    prompt, tokens = make_prompt(n_prompt), make_prompt(12, seed=3)
    with closing(one_token_llama(path, host_compute=host_compute)) as model:
        for _ in range(2):  # the second time all is in main memory
            model.reset()
            logits = eval_logits(model, prompt, tokens)
        assert model._engine is not None
        model._engine.check_tier_invariants()
    assert_identical(logits, stock_reference(path, prompt, tokens))


@pytest.mark.usefixtures("one_use")
@pytest.mark.parametrize("host_compute", [True, False])
def test_tokens_copy_ahead(tiny_model: ModelFactory, stock_reference: StockReference, host_compute: bool) -> None:
    """What the next router will probably choose is on its way before it chose; wrong guesses change nothing."""
    path = tiny_model("qwen3moe")
    prompt, tokens = make_prompt(1), make_prompt(20, seed=1)
    with closing(one_token_llama(path, host_compute=host_compute)) as model:
        eval_logits(model, make_prompt(64), [])  # from here on the experts are in main memory
        model.reset()
        before = model.stats()
        logits = eval_logits(model, prompt, tokens)
        stats = model.stats().since(before)
        assert model._engine is not None
        model._engine.check_tier_invariants()
        model._engine.check_invariants()
    assert_identical(logits, stock_reference(path, prompt, tokens))
    assert 0 < stats.n_ahead_parts < stats.n_device_parts
    assert stats.read_bytes == 0


def test_host_rounds_as_a_gpu(stock_reference: StockReference) -> None:
    """As if the CPU were a GPU whose rounding was recognised: other last bits, from inputs that "the GPU" quantised."""
    path, tokens = Path(bundled_model()), make_prompt(24)
    with closing(one_token_llama(path, host_compute=None)) as model:
        assert model._engine is not None
        assert not model.stats().host_rounds_as_device  # which the CPU is not taken for
        model._engine.assume_device_rounding()
        logits = eval_logits(model, tokens[:1], tokens[1:])
        stats = model.stats()
    wanted = stock_reference(path, tokens[:1], tokens[1:])
    assert stats.n_host_parts > 0
    assert stats.host_rounds_as_device
    p, q = (np.asarray(x, np.float64) for x in (wanted, logits))
    p, q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (p, q))
    assert float((np.exp(p) * (p - q)).sum(axis=1).mean()) < 1e-3


def in_batches(model: llama_cpp.Llama, batches: Sequence[list[int]]) -> Logits:
    model.reset()
    for batch in batches:
        model.eval(batch)
    return np.array(model.scores[: model.n_tokens], dtype=np.float32)


@pytest.mark.parametrize("vram", [ArenaSize.ONE_TOKEN, ArenaSize.QUARTER])
@pytest.mark.parametrize(
    ("quant", "n_at_a_time"),
    [("F16", 1), ("F16", 2), ("F16", 8), ("Q4_0", 1), ("Q4_0", 2), ("Q4_0", 5), ("Q8_0", 2), ("Q8_0", 8)],
)
def test_exact_mode_copies_what_the_host_would_round_otherwise(
    tiny_model: ModelFactory, quant: str, n_at_a_time: int, vram: ArenaSize
) -> None:
    """Beside a device with kernels of its own the host has no part in what no kernel of ours computes, nor batches."""
    path, tokens = tiny_model("qwen3moe", experts_quant=quant), make_prompt(24)
    batches = [tokens[i : i + n_at_a_time] for i in range(0, len(tokens), n_at_a_time)]
    with stock_llama(path) as stock:
        expected = in_batches(stock, batches)
    for host_compute in (None, True):
        with closing(
            tiered_llama(
                path,
                expert_vram=arena_bytes(path, vram),
                expert_memory=arena_bytes(path, ArenaSize.ALL),
                host_compute=host_compute,
            )
        ) as model:
            assert model._engine is not None
            assert not model._engine.is_host_held_back  # the CPU has its own bits
            model._engine.assume_device_rounding()
            assert model._engine.is_host_held_back == (host_compute is None and quant != "Q8_0")
            logits = in_batches(model, batches)
            stats = model.stats()
        assert stats.n_device_parts > 0
        assert host_compute or stats.n_host_parts == 0
        assert_identical(logits, expected)


def test_a_host_that_is_held_back_is_said_once(tiny_model: ModelFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model("qwen3moe")
    with closing(one_token_llama(path, host_compute=None)) as model:
        assert model.note is None or "--host-compute" not in model.note
    monkeypatch.setattr(_core.Engine, "is_host_held_back", property(lambda _: True))
    with closing(one_token_llama(path, host_compute=None)) as model:
        assert model.note is not None
        assert model.note.count("--host-compute on") == 1
    all_bytes = 2 * arena_bytes(path, ArenaSize.ALL)
    with closing(tiered_llama(path, expert_vram=all_bytes, expert_memory=all_bytes, host_compute=None)) as model:
        assert model.note is None  # the GPU lacks none


def test_what_is_served_in_lo_is_promoted_in_hi(tiny_model: ModelFactory) -> None:
    """Where the device has room for what is used much, a policy that never asks for hi ends up with hi."""
    path = tiny_model("qwen3moe")
    with closing(
        tiered_llama(
            path,
            expert_vram=arena_bytes(path, ArenaSize.QUARTER),
            expert_memory=2 * arena_bytes(path, ArenaSize.ALL),
            lo=tiny_model("qwen3moe", experts_quant="Q4_0"),
            policy=AlwaysLow(),
        )
    ) as model:
        deadline = time.monotonic() + 60
        while not all(state == HI for layer in model.residency() for state in layer):  # in the background
            assert time.monotonic() < deadline
            time.sleep(0.01)
        eval_logits(model, DECODE, [])
        assert model.stats().n_used_hi == 0
        for _ in range(3):
            model.reset()
            eval_logits(model, DECODE, [])
        assert model.stats().resident_bytes_device > 0
        assert model.stats().n_device_hits > 0


@pytest.mark.usefixtures("one_use")
@pytest.mark.parametrize("host_compute", [False, True])
@pytest.mark.parametrize("lo_share", [0.0, 0.5])
@pytest.mark.parametrize("hi_above", [None, 0.5])
def test_mixed_precision_computes_every_row(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    hi_above: float | None,
    lo_share: float,
    host_compute: bool,
) -> None:
    """With lo copies that are the hi ones once more, whatever is taken of which must give stock's logits."""
    path = tiny_model("qwen3moe")
    prompt, tokens = make_prompt(7), make_prompt(24, seed=3)
    with closing(
        tiered_llama(
            path,
            expert_vram=arena_bytes(path, ArenaSize.QUARTER),
            expert_memory=2 * arena_bytes(path, ArenaSize.ALL),
            host_compute=host_compute,
            lo=path,
            lo_share=lo_share,
        )
    ) as model:
        model.set_policy(AlwaysLow() if hi_above is None else WeightThresholds(hi_above))
        for _ in range(2):  # the second time all is in main memory
            model.reset()
            logits = eval_logits(model, prompt, tokens)
        stats = model.stats()
        assert model._engine is not None
        model._engine.check_tier_invariants()
    assert_identical(logits, stock_reference(path, prompt, tokens))
    assert stats.n_device_hits > 0
    assert stats.n_used_lo > 0
    assert (stats.n_host_parts > 0) <= host_compute
