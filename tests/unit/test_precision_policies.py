"""The precision policies: what each decides, and that its native form decides alike."""

from typing import Any

import numpy as np
import pytest

from hobbit_py._native_policies import to_native
from hobbit_py.errors import UsageError
from hobbit_py.policies import (
    HI,
    LO,
    PROMOTE,
    SKIP,
    AlwaysHigh,
    AlwaysLow,
    HobbitThresholds,
    MassBudget,
    PrecisionPolicy,
    WeightThresholds,
)

N_STEPS = 10_000
NOTHING, LO_RESIDENT, HI_RESIDENT = 0, 1, 2

BUILT_INS: list[PrecisionPolicy] = [
    AlwaysHigh(),
    AlwaysLow(),
    HobbitThresholds(),
    HobbitThresholds(0.0, 1.0),
    HobbitThresholds(0.25, 0.75),
    HobbitThresholds(0.25, 0.75, lo_serves_hi=True),
    HobbitThresholds(1.0, 1.0),
    WeightThresholds(),
    WeightThresholds(0.25, 0.125),
    WeightThresholds(0.0, 0.0),
    WeightThresholds(1.0, 1.0),
    WeightThresholds(0.125, 0.0, wait_above=0.5),
    WeightThresholds(0.0, 0.0, wait_above=2.0),
    WeightThresholds(0.5, 0.125, fall=0.125),  # meets eighths exactly, and 0 in layer 4
    WeightThresholds(0.0, 0.0, fall=-0.125),
    WeightThresholds.tilted(0.21, 0.25, 7, wait_above=0.5),
    MassBudget(),
    MassBudget(0.5, 0.25),
    MassBudget(0.0, 1.0),
]


def choose(policy: PrecisionPolicy, weights: list[float], resident: list[int]) -> list[int]:
    codes = policy.choose(0, np.array(weights, np.float32), np.array(resident, np.int8))
    return [int(code) for code in codes]


@pytest.mark.parametrize("policy", BUILT_INS, ids=repr)
def test_native_form_decides_alike(policy: PrecisionPolicy) -> None:
    rng = np.random.default_rng(0)
    native = to_native(policy)
    for _ in range(N_STEPS):
        n_used = int(rng.integers(1, 11))
        if rng.random() < 0.5:
            weights = rng.dirichlet(np.full(n_used, rng.choice([0.1, 1.0, 10.0]))).astype(np.float32)
        else:  # eighths: their sums meet thresholds exactly
            weights = (rng.multinomial(8, np.full(n_used, 1 / n_used)) / 8).astype(np.float32)
        weights = np.sort(weights)[::-1].copy()
        resident = rng.integers(0, 3, n_used).astype(np.int8)
        layer = int(rng.integers(0, 7))
        expected = np.asarray(policy.choose(layer, weights, resident))
        found = native.choose(layer, weights, resident)
        assert np.array_equal(found, expected), (layer, weights, resident)


def test_thresholds_score_by_the_mass_of_better_experts() -> None:
    weights = [0.5, 0.25, 0.125, 0.125]  # scores 0, 0.5, 0.75, 0.875
    assert choose(HobbitThresholds(0.5, 0.75), weights, [NOTHING] * 4) == [HI, HI, LO, SKIP]
    assert choose(HobbitThresholds(0.0, 1.0), weights, [NOTHING] * 4) == [HI, LO, LO, LO]


def test_thresholds_score_misses_alone() -> None:
    weights = [0.5, 0.25, 0.125, 0.125]
    assert choose(HobbitThresholds(0.0, 0.0), weights, [NOTHING, HI_RESIDENT, LO_RESIDENT, HI_RESIDENT]) == [
        HI,
        HI,
        SKIP,
        HI,
    ]


def test_lo_serves_hi_where_it_is_resident() -> None:
    resident = [LO_RESIDENT, NOTHING]
    assert choose(HobbitThresholds(1.0, 1.0, lo_serves_hi=True), [0.6, 0.4], resident) == [PROMOTE, HI]
    assert choose(HobbitThresholds(1.0, 1.0), [0.6, 0.4], resident) == [HI, HI]


def test_weight_thresholds_judge_an_expert_by_its_own_weight() -> None:
    weights = [0.375, 0.25, 0.25, 0.125]
    policy = WeightThresholds(hi_above=0.375, skip_below=0.25)
    assert choose(policy, weights, [NOTHING] * 4) == [HI, LO, LO, SKIP]
    assert choose(policy, weights, [LO_RESIDENT, HI_RESIDENT, NOTHING, HI_RESIDENT]) == [HI, HI, LO, HI]
    assert choose(policy, weights, [HI_RESIDENT, LO_RESIDENT, LO_RESIDENT, LO_RESIDENT]) == [HI, LO, LO, LO]
    assert choose(WeightThresholds(0.5), weights, [NOTHING] * 4) == [LO] * 4  # no favourite, none in hi


def test_weight_thresholds_may_fall_from_layer_to_layer() -> None:
    weights, missing = np.array([0.375, 0.25, 0.25, 0.125], np.float32), np.zeros(4, np.int8)
    policy = WeightThresholds(hi_above=0.375, fall=0.125)
    assert [list(policy.choose(layer, weights, missing)) for layer in range(3)] == [
        [HI, LO, LO, LO],
        [HI, HI, HI, LO],
        [HI, HI, HI, HI],
    ]


@pytest.mark.parametrize("n_layers", [2, 3, 12])
def test_a_tilt_turns_the_thresholds_about_the_middle_layer(n_layers: int) -> None:
    policy = WeightThresholds.tilted(0.2, 0.25, n_layers, skip_below=0.01, wait_above=0.5)
    hi_above = policy.hi_above - policy.fall * np.arange(n_layers)
    assert (hi_above[0], hi_above[-1], hi_above.mean()) == pytest.approx((0.25, 0.15, 0.2))
    assert (policy.skip_below, policy.wait_above) == (0.01, 0.5)
    assert WeightThresholds.tilted(0.2, 0.25, 1) == WeightThresholds(0.2)


def test_below_wait_above_a_resident_lo_copy_serves_while_hi_is_read() -> None:
    weights = [0.5, 0.25, 0.125, 0.125]
    policy = WeightThresholds(hi_above=0.25, wait_above=0.5)
    assert choose(policy, weights, [LO_RESIDENT] * 4) == [HI, PROMOTE, LO, LO]
    assert choose(policy, weights, [NOTHING] * 4) == [HI, HI, LO, LO]
    assert choose(policy, weights, [HI_RESIDENT] * 4) == [HI] * 4


def test_mass_budget_spends_from_the_lightest_up() -> None:
    weights = [0.5, 0.25, 0.125, 0.125]
    assert choose(MassBudget(lo_mass=0.25, skip_mass=0.125), weights, [NOTHING] * 4) == [HI, HI, LO, SKIP]
    assert choose(MassBudget(lo_mass=0.0, skip_mass=0.0), weights, [NOTHING] * 4) == [HI] * 4
    assert choose(MassBudget(lo_mass=1.0, skip_mass=0.0), weights, [NOTHING] * 4) == [HI, LO, LO, LO]


def test_a_subclass_is_asked_itself() -> None:
    class Never(HobbitThresholds):
        def choose(self, layer: int, gate_weights: Any, resident: Any) -> list[int]:
            return [SKIP] * len(gate_weights)

    weights, resident = np.array([0.7, 0.3], np.float32), np.zeros(2, np.int8)
    assert to_native(Never()).choose(0, weights, resident).tolist() == [SKIP, SKIP]


@pytest.mark.parametrize("codes", [[HI], [HI, 4], [HI, -1]])
def test_codes_of_ones_own_policy_are_checked(codes: list[int]) -> None:
    class Wrong:
        def choose(self, layer: int, gate_weights: Any, resident: Any) -> list[int]:
            return codes

    with pytest.raises(RuntimeError, match="the precision policy failed: it returned"):
        to_native(Wrong()).choose(0, np.array([0.7, 0.3], np.float32), np.zeros(2, np.int8))


def test_an_object_without_choose_is_refused() -> None:
    with pytest.raises(UsageError, match="choose"):
        to_native(object())  # type: ignore[arg-type]
