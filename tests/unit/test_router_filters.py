"""Router filters: the native form against its readable twin, and what each promises."""

from __future__ import annotations

import llama_cpp  # noqa: F401  (maps the ggml that _core needs)
import numpy as np
import pytest

from hobbit_py import UsageError, _core
from hobbit_py._native_policies import to_native_filter
from hobbit_py.policies import CachePrior, Reroute, RouterFilter, Substitute


def native_of(router_filter: RouterFilter) -> _core.RouterFilter:
    return _core.RouterFilter(*to_native_filter(router_filter))


@pytest.mark.parametrize(
    "router_filter",
    [
        *(CachePrior(0.3, 1), CachePrior(1.0, 2), CachePrior(0.0)),
        *(Substitute(0.3, 1), Substitute(1.0, 0), Substitute(0.0)),
        *(Reroute(0.15, 1), Reroute(1.0, 0), Reroute(0.0)),
        *(Reroute(0.3, 1, fall=0.2), Reroute(0.1, 0, fall=-0.2), Reroute(0.0, fall=0.1)),
    ],
    ids=repr,
)
def test_native_and_python_decide_alike(router_filter: RouterFilter) -> None:
    rng = np.random.default_rng(5)
    native = native_of(router_filter)
    n_changed = 0
    for step in range(10_000):
        n_expert = 16
        logits = rng.normal(size=n_expert).astype(np.float32)
        scores = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
        if step % 10 == 0:
            scores[rng.integers(n_expert, size=4)] = -np.inf  # a group that is masked out
        resident = rng.random(n_expert) < 0.5
        found = native.select(step % 3, scores, resident.tolist(), 4)
        assert found == router_filter.select(step % 3, scores, resident, 4)
        n_changed += found != np.argsort(-scores, kind="stable")[:4].tolist()
    _name, strength, *_ = to_native_filter(router_filter)
    assert (n_changed > 0) == (strength > 0)


@pytest.mark.parametrize("router_filter", [CachePrior(1.0, 2), Substitute(0.9, 2), Reroute(0.9, 2)], ids=repr)
def test_the_best_are_protected(router_filter: RouterFilter) -> None:
    scores = np.log(np.array([0.3, 0.29, 0.1, 0.09, 0.085, 0.08, 0.055], np.float32))
    resident = np.array([False, False, False, False, True, True, True])
    selected = router_filter.select(0, scores, resident, 4)
    assert selected[:2] == [0, 1]
    assert set(selected[2:]) == {4, 5}


def test_only_near_ties_are_substituted() -> None:
    scores = np.log(np.array([0.5, 0.25, 0.1, 0.09, 0.06], np.float32))
    resident = np.array([False, False, False, True, True])
    assert Substitute(0.2).select(0, scores, resident, 3) == [0, 1, 3]
    assert Substitute(0.05).select(0, scores, resident, 3) == [0, 1, 2]
    assert Substitute(0.2).select(0, scores, resident, 2) == [0, 1]


def test_experts_of_little_weight_are_rerouted_far_and_others_to_their_like() -> None:
    scores = np.log(np.array([0.5, 0.28, 0.02, 0.015, 0.004], np.float32))
    resident = np.array([False, False, False, False, True])
    assert Reroute(0.2).select(0, scores, resident, 3) == [0, 1, 4]  # 0.025 * 0.025 / 0.005 = 0.125
    assert Reroute(0.1).select(0, scores, resident, 3) == [0, 1, 2]
    assert Reroute(0.2).select(0, scores, resident, 2) == [0, 1]  # 0.36 * 0.36 / 0.005 = 26
    scores = np.log(np.array([0.3, 0.26, 0.25, 0.01, 0.01], np.float32))
    resident = np.array([False, False, True, False, False])
    assert Reroute(0.6).select(0, scores, resident, 2) == [0, 2]  # 0.46 * 0.46 / 0.45 = 0.48
    assert Reroute(0.4).select(0, scores, resident, 2) == [0, 1]


def test_a_tolerance_that_falls_is_smaller_in_each_later_layer() -> None:
    scores = np.log(np.array([0.5, 0.28, 0.02, 0.015, 0.004], np.float32))
    resident = np.array([False, False, False, False, True])
    falling = Reroute(0.2, fall=0.05)  # what rerouting costs here is 0.125, as above
    assert [falling.select(layer_idx, scores, resident, 3)[-1] for layer_idx in range(6)] == [4, 4, 2, 2, 2, 2]


def test_values_out_of_range() -> None:
    with pytest.raises(UsageError, match=r"strength is 1\.5 and must be between 0 and 1"):
        CachePrior(1.5)
    with pytest.raises(UsageError, match=r"margin is -1 and must be between 0 and 1"):
        Substitute(-1)
    with pytest.raises(UsageError, match=r"tolerance is 2 and must be between 0 and 1"):
        Reroute(2)
    with pytest.raises(UsageError, match=r"fall is inf and must be a finite number"):
        Reroute(0.1, fall=float("inf"))
    with pytest.raises(ValueError, match="fall is inf and must be a finite number"):
        _core.RouterFilter("reroute", 0.1, 1, float("inf"))
    with pytest.raises(ValueError, match="unknown router filter 'nearest'"):
        _core.RouterFilter("nearest", 0.5, 1)
