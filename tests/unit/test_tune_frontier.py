"""Which candidates a replay leaves for runs of the model."""

from __future__ import annotations

import numpy as np
import pytest
from traces import random_trace

from hobbit_py.mixed import full_lo_share
from hobbit_py.policies import HI, LO, WeightThresholds
from hobbit_py.simulate.replay import all_slots_bytes
from hobbit_py.tune.candidate import Candidate
from hobbit_py.tune.frontier import (
    LEAST_LO_SHARE,
    LO_SHARES,
    LoWeight,
    ReplayCost,
    find_frontier,
    lo_shares,
    not_beaten,
    replay_cost,
)

HI_LADDER = [0.9, 0.5, 0.3, 0.2, 0.1]


def test_lo_weight_decides_as_the_plain_policy_and_adds_up() -> None:
    rng = np.random.default_rng(0)
    thresholds = WeightThresholds.tilted(0.25, 0.25, 4, wait_above=0.4)
    costs = [1.0, 2.0, 0.5, 1.5]
    policy = LoWeight(thresholds, costs)
    squares, n_hi = 0.0, 0
    for step in range(2000):
        weights = -np.sort(-rng.dirichlet(np.full(4, 0.7))).astype(np.float32)
        resident = rng.choice(np.array([0, LO, HI], np.int8), 4)
        plain = thresholds.choose(step % 4, weights, resident)
        assert policy.choose(step % 4, weights, resident).tolist() == plain
        squares += sum(float(w) ** 2 for w, code in zip(weights, plain, strict=True) if code != HI) * costs[step % 4]
        n_hi += plain.count(HI)
    assert policy.squares == pytest.approx(squares, rel=1e-4)
    assert policy.n_hi == n_hi


def beats(a: ReplayCost, b: ReplayCost) -> bool:
    no_worse = a.read_bytes <= b.read_bytes and a.lo_weight <= b.lo_weight
    return no_worse and (a.read_bytes, a.lo_weight) != (b.read_bytes, b.lo_weight)


def test_what_is_kept_is_what_no_other_beats() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        costs = [
            (Candidate(float(i), 0.0, 0.5), ReplayCost(*rng.integers(0, 8, 3).astype(float), hi_share=0.0))
            for i in range(12)
        ]
        kept = not_beaten(costs)
        figures = dict(costs)
        slow = [c for c, cost in costs if not any(beats(other, cost) for _, other in costs)]
        pairs = [(figures[c].read_bytes, figures[c].lo_weight) for c in kept]
        assert sorted(pairs) == sorted({(figures[c].read_bytes, figures[c].lo_weight) for c in slow})
        assert pairs == sorted(pairs)
        assert [lo_weight for _, lo_weight in pairs] == sorted((p[1] for p in pairs), reverse=True)


def test_shares_end_where_every_expert_has_room() -> None:
    assert lo_shares(0.25, 0.4) == list(LO_SHARES)
    assert lo_shares(0.25, 0.4, has_own_hi=True) == [LEAST_LO_SHARE, *LO_SHARES]
    full = full_lo_share(0.6, 0.4)
    assert lo_shares(0.6, 0.4) == [0.25, full]
    assert full == pytest.approx(0.4 / (0.6 * 1.5))
    assert lo_shares(0.95, 0.4) == [full_lo_share(0.95, 0.4)]
    assert lo_shares(0.5, 1.2) == list(LO_SHARES)  # copies that are no smaller


def test_the_frontier_reads_ever_more_and_leaves_ever_less_in_lo() -> None:
    trace = random_trace(n_tokens=200, n_layers=3, n_expert=16, n_used=4, has_lo=True, seed=2)
    memory_bytes = all_slots_bytes(trace) // 4
    frontier = find_frontier(trace, memory_bytes, HI_LADDER)
    costs = [replay_cost(trace, memory_bytes, c.policy(len(trace.n_expert)), c.lo_share) for c in frontier]
    assert [c.read_bytes for c in costs] == sorted(c.read_bytes for c in costs)
    assert [c.lo_weight for c in costs] == sorted((c.lo_weight for c in costs), reverse=True)
    # What is left out is beaten.
    for hi_above in HI_LADDER:
        cost = replay_cost(trace, memory_bytes, Candidate(hi_above, 0.0, 0.45).policy(4), 0.45)
        assert any(c.read_bytes <= cost.read_bytes and c.lo_weight <= cost.lo_weight for c in costs)


def test_a_replay_counts_all_that_was_selected() -> None:
    trace = random_trace(n_tokens=50, n_layers=2, n_expert=8, n_used=2, has_lo=True)
    memory_bytes = all_slots_bytes(trace) // 2
    everything = replay_cost(trace, memory_bytes, WeightThresholds(0.0), 0.25)
    assert (everything.hi_share, everything.lo_weight) == (1.0, 0.0)
    nothing = replay_cost(trace, memory_bytes, WeightThresholds(2.0), 1.0)
    assert nothing.hi_share == 0.0
    assert nothing.lo_weight == pytest.approx(
        float((trace.weights.astype(np.float64) ** 2).sum(axis=2).mean()), rel=1e-5
    )
    assert 0 < nothing.read_bytes < everything.read_bytes
    twice = replay_cost(trace, memory_bytes, WeightThresholds(2.0), 1.0, layer_cost=[2.0, 2.0, 2.0])
    assert twice.lo_weight == pytest.approx(2 * nothing.lo_weight)
