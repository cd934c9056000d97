"""Router filters in llama.cpp's own graph: exact at strength 0, fewer misses above."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import N_CTX, ArenaSize, ModelFactory, StockReference, arena_bytes, eval_logits, make_prompt
from tiny_models import ARCHITECTURES

import hobbit_py
from hobbit_py.policies import CachePrior, Reroute, RouterFilter, Substitute

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


@pytest.mark.parametrize("router_filter", [CachePrior(0.8), Substitute(0.8), Reroute(0.8)], ids=repr)
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


class Listener:
    """An eviction policy that keeps what it is told of the first layer, token by token."""

    def start(self, n_expert: list[int], lo_cost: float) -> None:
        self.shape = (len(n_expert), max(n_expert))
        self.told: list[list[int]] = []

    def on_route(self, layer: int, expert_idxs: np.ndarray, codes: np.ndarray) -> None:
        if layer == 0:
            self.told += expert_idxs.tolist()

    def scores(self) -> np.ndarray:
        return np.ones(self.shape)

    def reset(self) -> None:
        pass


def test_eviction_is_told_what_the_router_chose(tiny_model: ModelFactory) -> None:
    """Which in the first layer depends on the tokens alone, whatever was rerouted before."""
    path = tiny_model("qwen3moe", n_expert=16, n_expert_used=4)
    told = []
    for active in (None, Substitute(0.8)):
        listener = Listener()
        with closing(
            hobbit_py.Llama(
                path,
                expert_memory=arena_bytes(path, ArenaSize.QUARTER),
                precision="exact",
                n_ctx=N_CTX,
                n_threads=1,
                prefetch=False,
                eviction=listener,
                router_filter=active,
            )
        ) as model:
            for token in (*PROMPT, *DECODE):
                model.eval([token])
            assert (model.stats().n_rerouted > 0) == (active is not None)
        told.append(listener.told)
    assert told[0] == told[1]
