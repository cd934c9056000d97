"""A GPU that has no room for every expert as in the model, but for every lo copy, holds these and needs no others.

The CPU stands for the device, as in test_device_tier.py. What must come out is what llama.cpp computes with a model
whose experts are the lo copies, bit for bit, however many tokens at a time.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import (
    N_CTX,
    ArenaSize,
    ModelFactory,
    StockReference,
    arena_bytes,
    assert_identical,
    eval_logits,
    make_prompt,
)

import hobbit_py
from hobbit_py._host import _core
from hobbit_py.errors import UsageError
from hobbit_py.pack import pack
from hobbit_py.policies import AlwaysLow, WeightThresholds

ARCHS = ["qwen3moe", "llama", "gpt-oss", "deepseek2-fused", "lfm2moe"]  # all of whose quantised tensors are experts
DECODE = make_prompt(8, seed=1)


def device_llama(path: Path, lo: Path, expert_vram: int, **keywords: Any) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        str(path),
        device="CPU",
        expert_vram=expert_vram,
        precision="mixed",
        lo=lo,
        n_ctx=N_CTX,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        **({"expert_memory": arena_bytes(path, ArenaSize.ALL)} | keywords),
    )


def all_lo_bytes(path: Path, lo: Path) -> int:
    """A value for `expert_vram`: slots for every lo copy."""
    with closing(device_llama(path, lo, 0, expert_memory=0, policy=AlwaysLow())) as model:
        assert model._engine is not None
        assert model._engine.all_lo_device_bytes < model._engine.all_device_bytes
        return model._engine.all_lo_device_bytes


@pytest.mark.parametrize("n_prompt", [1, 7, 64])
@pytest.mark.parametrize("arch", ARCHS)
def test_architectures(tiny_model: ModelFactory, stock_reference: StockReference, arch: str, n_prompt: int) -> None:
    path, lo = tiny_model(arch), tiny_model(arch, experts_quant="Q4_0")
    prompt = make_prompt(n_prompt)
    vram = all_lo_bytes(path, lo)
    with closing(device_llama(path, lo, vram)) as model:
        copied_bytes = model.stats().copied_bytes
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
        assert model._engine is not None
        lo_bytes = model._engine.lo_expert_bytes
        model._engine.check_tier_invariants()
        model._engine.check_invariants()
    assert_identical(logits, stock_reference(lo, prompt, DECODE))
    assert stats.resident_bytes_device == lo_bytes <= vram
    assert stats.copied_bytes == copied_bytes  # nothing since it was loaded
    assert stats.n_device_hits + stats.n_device_misses == 0  # nor was anything asked for
    assert stats.n_used_lo > 0
    assert stats.n_used_hi == 0


def test_what_is_recorded_is_computed_alike(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    """Then the router's choice is read back, and experts are asked for."""
    path, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant="Q4_0")
    prompt = make_prompt(7)
    with closing(device_llama(path, lo, all_lo_bytes(path, lo))) as model:
        assert model._engine is not None
        log = _core.RouteLog()
        model._engine.set_route_log(log)
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
    assert_identical(logits, stock_reference(lo, prompt, DECODE))
    assert log.n_rows > 0
    assert stats.n_device_hits > 0
    assert stats.n_device_misses == stats.n_used_hi == 0


@pytest.fixture(params=["ring", "spare slots"])
def little_room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For copies of one use: less than all lo copies of a tiny model take."""
    make = _core.TierOptions

    def tier_options() -> _core.TierOptions:
        options = make()
        options.ring_bytes = 0 if request.param == "ring" else 512 << 10
        return options

    monkeypatch.setattr(_core, "TierOptions", tier_options)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("host_compute", [False, True])
@pytest.mark.parametrize("n_prompt", [1, 7, 64])
def test_where_some_fit_they_are_used_alone_too(
    tiny_model: ModelFactory, stock_reference: StockReference, n_prompt: int, host_compute: bool
) -> None:
    """As exact mode would be with a model whose experts they are."""
    path, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant="Q4_0")
    prompt = make_prompt(n_prompt)
    vram = all_lo_bytes(path, lo) // 4
    with closing(device_llama(path, lo, vram, host_compute=host_compute)) as model:
        assert model._engine is not None
        for _ in range(2):  # the second time all is in main memory
            model.reset()
            logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
        model._engine.check_tier_invariants()
        assert 0 < stats.resident_bytes_device < model._engine.lo_expert_bytes
    assert_identical(logits, stock_reference(lo, prompt, DECODE))
    assert stats.n_device_hits > 0
    assert stats.n_device_misses > 0
    assert stats.n_used_hi == stats.read_bytes_hi == 0
    assert (stats.n_host_parts > 0) <= host_compute


@pytest.mark.parametrize("n_prompt", [1, 64])
def test_they_pass_through_little_memory(
    tiny_model: ModelFactory, stock_reference: StockReference, n_prompt: int
) -> None:
    """With none at all they do not come before they are wanted."""
    path, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant="Q4_0")
    vram, prompt = all_lo_bytes(path, lo), make_prompt(n_prompt)
    for memory in (arena_bytes(lo, ArenaSize.ONE_TOKEN), 0):
        with closing(device_llama(path, lo, vram, expert_memory=memory)) as model:
            assert_identical(eval_logits(model, prompt, DECODE), stock_reference(lo, prompt, DECODE))
            assert (model.stats().n_device_misses == 0) == (memory > 0)


@pytest.mark.parametrize(
    ("lo_type", "keywords", "is_held"),
    [
        ("Q4_0", {}, True),
        ("Q4_0", {"lo_share": 1.0}, True),
        ("Q4_0", {"lo_share": 0.5}, False),
        ("Q4_0", {"policy": WeightThresholds(0.5)}, False),
        ("Q4_0", {"policy": AlwaysLow(), "lo_share": 1.0}, False),
        ("IQ3_S", {}, False),
        ("IQ3_S", {"lo_share": 1.0}, True),
        ("Q4_0,gate=Q3_K", {}, False),
    ],
    ids=str,
)
def test_who_asks_for_something_else_gets_it(
    tiny_model: ModelFactory, tmp_path: Path, lo_type: str, keywords: dict[str, Any], is_held: bool
) -> None:
    path = tiny_model("qwen3moe")
    lo = pack(path, lo_type, out=tmp_path / "lo.gguf")
    with closing(device_llama(path, lo, all_lo_bytes(path, lo), **keywords)) as model:
        eval_logits(model, DECODE, [])
        stats = model.stats()
        assert (stats.n_device_hits + stats.n_device_misses == 0) == is_held
        assert model.note is not None
        assert model.note.startswith("Every expert is used in its lo copy, and all on the GPU, from lo.gguf") == is_held
        if is_held:
            with pytest.raises(UsageError, match="lo copies"):
                model.set_policy(AlwaysLow())
        else:
            model.set_policy(AlwaysLow())


def test_what_the_ring_would_take_serves_as_slots(tiny_model: ModelFactory) -> None:
    path, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant="Q4_0")
    fewest = _core.TierOptions()
    fewest.ring_bytes = 0
    with closing(device_llama(path, lo, 0, policy=AlwaysLow())) as model:
        assert model._engine is not None
        spared_bytes = model._engine.device_bytes(_core.TierOptions()) - model._engine.device_bytes(fewest)
    assert spared_bytes > 0
    for too_few in (0, 1):
        with closing(device_llama(path, lo, all_lo_bytes(path, lo) - spared_bytes - too_few)) as model:
            assert model._engine is not None
            is_held = model.stats().resident_bytes_device == model._engine.lo_expert_bytes
            assert is_held == (too_few == 0)


def test_with_room_for_all_as_in_the_model_lo_copies_are_not_used(
    tiny_model: ModelFactory, stock_reference: StockReference
) -> None:
    path, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant="Q4_0")
    prompt = make_prompt(7)
    with closing(device_llama(path, lo, arena_bytes(path, ArenaSize.ALL))) as model:
        assert_identical(eval_logits(model, prompt, DECODE), stock_reference(path, prompt, DECODE))
        assert model.stats().n_used_lo == 0
