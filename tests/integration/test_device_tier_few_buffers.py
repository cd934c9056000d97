"""Few stream buffers below a tier of its own: whoever waits for one must not hold what others wait for.

The CPU stands for the device, as in test_device_tier.py.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from device_tier import tiered_llama
from support import (
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
)

from hobbit_py._host import _core

DECODE = make_prompt(8, seed=1)


@pytest.fixture
def smallest_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stream buffers below the device, as a small budget and large matrices leave."""
    make = _core.LoaderOptions

    def loader_options() -> _core.LoaderOptions:
        options = make()
        options.stream_bytes = 0
        return options

    monkeypatch.setattr(_core, "LoaderOptions", loader_options)


@pytest.mark.usefixtures("smallest_ring", "one_use")
@pytest.mark.parametrize("memory", [None, ArenaSize.ONE_TOKEN])
@pytest.mark.parametrize("n_prompt", [1, 7, 12, 32, 40])
@pytest.mark.parametrize("host_compute", [True, False])
def test_host_and_copies_share_few_stream_buffers(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    n_prompt: int,
    memory: ArenaSize | None,
    host_compute: bool,
) -> None:
    """What waits to be copied must not hold the buffers that the host's share waits for, nor the other way round."""
    path = tiny_model("qwen3moe", n_expert=32, n_expert_used=4)
    prompt = make_prompt(n_prompt)
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
        assert model._engine is not None
        model._engine.check_tier_invariants()
        model._engine.check_invariants()
    assert_identical(logits, stock_reference(path, prompt, DECODE))
    assert stats.n_device_parts > 0


@pytest.mark.usefixtures("smallest_ring", "one_use")
@pytest.mark.parametrize("memory", [None, ArenaSize.QUARTER])
def test_contexts_share_few_buffers(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    monkeypatch: pytest.MonkeyPatch,
    memory: ArenaSize | None,
) -> None:
    """No context waits for the drive with a buffer of the device in its hands that another waits for."""
    make = _core.TierOptions

    def tier_options() -> _core.TierOptions:
        options = make()
        options.ring_bytes = 0  # three
        return options

    monkeypatch.setattr(_core, "TierOptions", tier_options)
    path = tiny_model("qwen3moe", n_expert=32, n_expert_used=4)
    prompts = [make_prompt(n, seed=n) for n in (9, 16, 31)]
    start = threading.Barrier(len(prompts))

    def run(context: Context, prompt: list[int]) -> Logits:
        start.wait()
        return np.concatenate([context.eval(prompt), *(context.eval([token]) for token in DECODE)])

    with (
        closing(
            tiered_llama(
                path,
                expert_vram=arena_bytes(path, ArenaSize.ONE_TOKEN),
                expert_memory=0 if memory is None else arena_bytes(path, memory),
            )
        ) as model,
        contexts(model, len(prompts)) as all_contexts,
    ):
        with ThreadPoolExecutor(len(prompts)) as pool:
            found = list(pool.map(run, all_contexts, prompts))
        assert model._engine is not None
        model._engine.check_tier_invariants()
        model._engine.check_invariants()
    for logits, prompt in zip(found, prompts, strict=True):
        assert_identical(logits, stock_reference(path, prompt, DECODE))
