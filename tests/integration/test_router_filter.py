"""Router filters in llama.cpp's own graph: exact at strength 0, fewer misses above."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import N_CTX, ArenaSize, ModelFactory, StockReference, arena_bytes, eval_logits, make_prompt
from tiny_models import ARCHITECTURES

import hobbit_py
from hobbit_py.policies import CachePrior, RouterFilter, Substitute

DECODE = make_prompt(24, seed=1)
PROMPT = make_prompt(16)

MOE_ARCHITECTURES = [name for name in ARCHITECTURES if name != "llama-dense"]


def filtered(path: Path, router_filter: RouterFilter | None) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        path,
        expert_memory=arena_bytes(path, ArenaSize.QUARTER),
        precision="exact",
        n_ctx=N_CTX,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        prefetch=False,
        router_filter=router_filter,
    )


@pytest.mark.parametrize("arch", MOE_ARCHITECTURES)
def test_strength_zero_is_exact(tiny_model: ModelFactory, stock_reference: StockReference, arch: str) -> None:
    path = tiny_model(arch)
    with closing(filtered(path, CachePrior(0.0))) as model:
        assert np.array_equal(eval_logits(model, PROMPT, DECODE), stock_reference(path, PROMPT, DECODE))


@pytest.mark.parametrize("router_filter", [CachePrior(0.8), Substitute(0.8)], ids=repr)
def test_fewer_misses(tiny_model: ModelFactory, router_filter: RouterFilter) -> None:
    path = tiny_model("qwen3moe", n_expert=16, n_expert_used=4)
    misses = []
    for active in (None, router_filter):
        with closing(filtered(path, active)) as model:
            logits = eval_logits(model, PROMPT, DECODE)
            stats = model.stats()
        assert np.isfinite(logits).all()
        assert (stats.n_rerouted > 0) == (active is not None)
        misses.append(stats.n_misses_hi)
    assert misses[1] < misses[0]
