"""The eviction policies: what each decides, and that its native form decides alike."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from hobbit_py._host import _core
from hobbit_py.policies import HI, LO, SKIP
from hobbit_py.policies.eviction import BUILT_INS, EvictionPolicy

N_STEPS = 10_000
N_EXPERT = [8, 0, 8, 6, 8]  # a layer without experts, and one with fewer
MOE_LAYERS = [0, 2, 3, 4]
LO_COST = 0.375
CASES = [
    *((name, {}, LO_COST) for name in BUILT_INS),
    ("frequency", {"decay": 0.5}, LO_COST),
    ("next-use", {}, 0.0),
    ("ranked-frequency", {"decay": 0.75, "later_weight": 1.0}, LO_COST),
    ("multidimensional", {"lru": 0.1, "lfu": 0.0, "lhu": 0.6, "fld": 0.3}, LO_COST),
]


def started(name: str, parameters: dict[str, float], lo_cost: float = LO_COST) -> EvictionPolicy:
    policy = BUILT_INS[name](**parameters)
    policy.start(N_EXPERT, lo_cost)
    return policy


def native(name: str, parameters: dict[str, float] | None = None, lo_cost: float = LO_COST) -> _core.EvictionPolicy:
    return _core.EvictionPolicy(name, parameters or {}, N_EXPERT, lo_cost)


@pytest.mark.parametrize(("name", "parameters", "lo_cost"), CASES)
def test_native_form_decides_alike(name: str, parameters: dict[str, float], lo_cost: float) -> None:
    rng = np.random.default_rng(0)
    python, core = started(name, parameters, lo_cost), native(name, parameters, lo_cost)
    exists = np.arange(max(N_EXPERT)) < np.array(N_EXPERT)[:, None]
    for step in range(N_STEPS):
        layer = MOE_LAYERS[step % len(MOE_LAYERS)]
        n_tokens = 1 if rng.random() < 0.8 else int(rng.integers(2, 6))
        skew = rng.dirichlet(np.full(N_EXPERT[layer], 0.3)) + 1e-9
        ids = np.array(
            [rng.choice(N_EXPERT[layer], 3, replace=False, p=skew / skew.sum()) for _ in range(n_tokens)], np.int32
        )
        codes = rng.choice([SKIP, LO, HI], ids.shape).astype(np.int8)
        python.on_route(layer, ids, codes)
        core.on_route(layer, ids, codes)
        if hasattr(python, "on_predict") and rng.random() < 0.5:
            target = int(rng.choice(MOE_LAYERS))
            expected = rng.choice(N_EXPERT[target], int(rng.integers(1, N_EXPERT[target])), replace=False)
            chances = rng.random(len(expected)).astype(np.float32)
            python.on_predict(layer, target, expected.astype(np.int32), chances)
            core.on_predict(layer, target, expected.astype(np.int32), chances)
        if hasattr(python, "on_next_token") and rng.random() < 0.5:
            chances = rng.random(N_EXPERT[layer]).astype(np.float32)
            python.on_next_token(layer, chances)
            core.on_next_token(layer, chances)
        if rng.random() < 0.01:
            python.reset()
            core.reset()
        scores = np.broadcast_to(python.scores(), (2, *exists.shape))
        found = core.scores()
        resident = np.broadcast_to(exists, found.shape) & (rng.random(found.shape) < 0.6)
        if resident.any():
            assert np.argmin(np.where(resident, scores, np.inf)) == np.argmin(np.where(resident, found, np.inf))
        assert np.allclose(scores[:, exists], found[:, exists], rtol=1e-12, atol=0)


def test_both_sides_have_the_same_policies_and_parameters() -> None:
    assert _core.eviction_policy_names() == list(BUILT_INS)
    for name, policy in BUILT_INS.items():
        defaults = {field.name: field.default for field in dataclasses.fields(policy)}  # type: ignore[arg-type]
        native(name, defaults)
        with pytest.raises(ValueError, match="has no parameter 'typo'"):
            native(name, {"typo": 0.5})


def route(policy: Any, layer: int, experts: list[int], codes: list[int] | None = None) -> None:
    policy.on_route(layer, np.array([experts], np.int32), np.array([codes or [HI] * len(experts)], np.int8))


def order(
    name: str, layer: int, routed: list[Any], *, copy: int = 0, lo_cost: float = LO_COST, **parameters: float
) -> list[int]:
    """Experts of a layer from the first victim on, after (layer, experts[, codes]) were routed."""
    policy = native(name, parameters, lo_cost)
    for step in routed:
        route(policy, *step)
    return [int(e) for e in np.argsort(policy.scores()[copy, layer, : N_EXPERT[layer]], kind="stable")]


def test_lru_and_lfu_differ_over_an_old_favourite() -> None:
    routed = [(0, [1]), (0, [1]), (0, [2])]
    assert order("lru", 0, routed)[-2:] == [1, 2]
    assert order("lfu", 0, routed)[-2:] == [2, 1]
    assert order("frequency", 0, routed)[-2:] == [2, 1]
    assert order("frequency", 0, routed, decay=0.5)[-2:] == [1, 2]


@pytest.mark.parametrize(("lo_cost", "weight"), [(0.0, "follow_weight"), (LO_COST, "mixed_follow_weight")])
def test_next_use_knows_what_follows_what(lo_cost: float, weight: str) -> None:
    routed = [(0, [expert]) for expert in [1, 2, 3] * 30 + [1]]
    assert order("next-use", 0, routed, lo_cost=lo_cost, learning_rate=0.0)[-1] == 2
    assert order("next-use", 0, routed, lo_cost=lo_cost, learning_rate=0.0, **{weight: 0.0})[-1] == 1
    assert order("next-use", 0, routed, lo_cost=lo_cost, **{weight: 0.0})[-1] == 2  # learned instead


@pytest.mark.parametrize("told_by", [0, 3])
def test_next_use_learns_what_other_layers_tell_of_the_next_token(told_by: int) -> None:
    """Layer 2 repeats what the token before drew in the layer before, or after: counts of its own know nothing."""
    for rate, least, most in ((0.04, 95, 100), (0.0, 0, 40)):
        rng = np.random.default_rng(0)
        policy = native("next-use", {"learning_rate": rate})
        last = 0
        n_right = 0
        for token in range(500):
            drawn = {layer: int(rng.integers(4)) for layer in MOE_LAYERS} | {2: last}
            if token >= 400:
                n_right += int(np.argmax(policy.scores()[0, 2, :4]) == last)
            for layer, expert in sorted(drawn.items()):
                route(policy, layer, [expert])
            last = drawn[told_by]
        assert least <= n_right <= most


def test_next_use_learns_nothing_beyond_a_sequence() -> None:
    scores = {}
    for rate in (0.04, 0.0):
        for begins_anew in (True, False):
            policy = native("next-use", {"learning_rate": rate})
            for experts in [[1], [2]] * 20:
                if begins_anew:
                    policy.reset()
                route(policy, 0, experts)
            scores[rate, begins_anew] = policy.scores()[0, 0].tolist()
    assert scores[0.04, True] == scores[0.0, True]
    assert scores[0.04, False] != scores[0.0, False]


@pytest.mark.parametrize("lo_cost", [0.0, LO_COST])
def test_next_use_believes_trained_gates_as_far_as_it_is_told_to(lo_cost: float) -> None:
    for share, expected in ((0.0, 1), (1.0, 5)):
        policy = native("next-use", {"trained_weight": share, "learning_rate": 0.0}, lo_cost)
        for _ in range(9):
            route(policy, 0, [1])
            policy.on_next_token(0, np.eye(8, dtype=np.float32)[5])
        assert np.argmax(policy.scores()[1, 0]) == expected
    route(policy, 0, [1])  # what was said is of one token alone
    assert np.argmax(policy.scores()[1, 0]) == 1


def test_next_use_learns_what_trained_gates_get_wrong() -> None:
    """They always name an expert that never comes, in the place of the one that does."""
    policy = native("next-use", {"trained_weight": 1.0}, 0.0)
    wrong = np.array([0, 0, 0.3, 0.3, 0, 0, 0, 0], np.float32)
    for _ in range(200):
        route(policy, 0, [2])
        policy.on_next_token(0, wrong)
    scores = policy.scores()[0, 0]
    assert scores[3] / scores[2] == pytest.approx(0.15, rel=0.05)  # one half at most is taken


def test_next_use_counts_no_followers_beyond_a_sequence() -> None:
    scores = []
    for begins_anew in (True, False):
        policy = native("next-use")
        route(policy, 0, [1])
        if begins_anew:
            policy.reset()
        route(policy, 0, [2])
        route(policy, 0, [1])
        scores.append(policy.scores()[0, 0, 2])
    assert 0 < scores[0] < scores[1]


def test_lfru_divides_uses_by_age() -> None:
    policy = native("lfru")
    for experts in ([1], [1], [1], [2]):
        route(policy, 0, experts)
    assert policy.scores()[0, 0, :3].tolist() == [0.0, 3 / 2, 1.0]


def test_sequence_records_end_with_the_sequence_and_ages_do_not() -> None:
    for name, kept in [("lfu", False), ("lcu", False), ("multidimensional", False), ("lru", True), ("frequency", True)]:
        policy = native(name)
        route(policy, 0, [3])
        policy.reset()
        assert (np.argmax(policy.scores()[0, 0]) == 3) == kept, name


def test_a_lo_use_counts_less_where_the_copy_matters() -> None:
    routed = [(0, [1], [HI]), (0, [2], [LO]), (2, [0])]
    assert order("multidimensional", 0, routed, lru=0.0, lfu=0.0, lhu=1.0, fld=0.0)[-1] == 1
    policy = native("lcu")
    for step in [(0, [1, 2], [HI, LO]), (2, [0]), (0, [3])]:
        route(policy, *step)
    scores = policy.scores()[0, 0]
    assert scores[1] == pytest.approx(1 / 2)
    assert scores[2] == pytest.approx(LO_COST / 2)
    assert scores[3] == pytest.approx(1 / 2 + 1 / 0.1)  # the current layer itself


def test_farthest_layers_go_first() -> None:
    policy = native("multidimensional", {"lru": 0.0, "lfu": 0.0, "lhu": 0.0, "fld": 1.0})
    route(policy, 2, [0])
    assert policy.scores()[0, MOE_LAYERS, 0].tolist() == pytest.approx([1 - 3 / 5, 1.0, 1 - 1 / 5, 1 - 2 / 5])


def test_moe_infinity_keeps_first_layers_and_believes_predictions() -> None:
    policy = native("moe-infinity")
    route(policy, 0, [1, 2])
    route(policy, 2, [1, 2])
    scores = policy.scores()[0]
    assert scores[0, 1] == pytest.approx(0.5, rel=1e-3)
    assert scores[2, 1] == pytest.approx(0.5 * 3 / 5, rel=1e-3)
    policy.on_predict(0, 2, np.array([5], np.int32), np.array([0.9], np.float32))
    assert np.argmax(policy.scores()[0, 2]) == 5
    policy.reset()
    assert policy.scores()[0, 2, 5] == policy.scores()[0, 2, 0]


def test_two_levels_protect_the_last_token_and_the_prediction() -> None:
    policy = native("two-level-lru")
    for step in [(0, [1]), (2, [3]), (0, [2])]:
        route(policy, *step)
    policy.on_predict(0, 2, np.array([7], np.int32), np.array([0.1], np.float32))
    scores = policy.scores()[0]
    assert scores[0, 1] < scores[2, 7] < scores[2, 3] < scores[0, 2]
    route(policy, 2, [4])  # the prediction was about this step
    assert policy.scores()[0, 2, 7] < policy.scores()[0, 0, 1]


def test_least_stale_keeps_this_pass_and_lets_first_layers_go() -> None:
    policy = native("least-stale")
    for step in [(0, [1]), (2, [1]), (3, [1]), (4, [1]), (0, [2]), (2, [2])]:
        route(policy, *step)
    scores = policy.scores()[0]
    assert scores[0, 1] < scores[2, 1] < scores[3, 1] < scores[4, 1] < scores[0, 2] < scores[2, 2]


def test_ranked_frequency_wants_the_hi_copy_of_a_best_expert_alone() -> None:
    policy = native("ranked-frequency")
    route(policy, 0, [1, 2])
    hi, lo = policy.scores()[:, 0]
    assert hi[1:3].tolist() == pytest.approx([1.0, 0.3])
    assert lo[1:3].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("lo_cost", "hi_scores"), [(LO_COST, [1.0, 0.3]), (0.0, [1.0, 1.0])])
def test_next_use_keeps_hi_copies_of_best_experts_where_lo_copies_serve_the_others(
    lo_cost: float, hi_scores: list[float]
) -> None:
    policy = native("next-use", {"later_weight": 0.3}, lo_cost)
    route(policy, 0, [1, 2])
    hi, lo = policy.scores()[:, 0, 1:3]
    assert (hi / hi[0]).tolist() == pytest.approx(hi_scores)
    assert (lo / lo[0]).tolist() == pytest.approx([1.0, 1.0])
