"""The replay of traces: against the cache in plain Python, and the bounds against what they bound."""

import dataclasses

import numpy as np
import pytest
from traces import random_trace

from hobbit_py.errors import UsageError
from hobbit_py.policies import (
    AlwaysHigh,
    HobbitThresholds,
    MassBudget,
    PrecisionPolicy,
    WeightThresholds,
    eviction_policy,
)
from hobbit_py.policies.eviction import BUILT_INS, MoeInfinity, TwoLevelLru
from hobbit_py.policies.presets import PRESETS, Preset
from hobbit_py.simulate import Trace
from hobbit_py.simulate.belady import belady_misses
from hobbit_py.simulate.judge import Machine, judge, replay_preset
from hobbit_py.simulate.predictions import guesses_of, recall_by_distance
from hobbit_py.simulate.reference import ReferenceStep, replay_in_python
from hobbit_py.simulate.replay import Replayed, all_slots_bytes, make_replay, run_replay, slot_bytes

NO_GUESSES = Preset("none", eviction="lru")


def native(
    trace: Trace, name: str, memory_bytes: int, precision: PrecisionPolicy | None, lo_share: float
) -> tuple[Replayed, list[int]]:
    replay = make_replay(trace, memory_bytes, eviction_policy(name), precision, lo_share)
    replayed = run_replay(trace, replay, guesses_of(trace, NO_GUESSES))
    replay.check_invariants()
    return replayed, replay.class_slots()


def compare(trace: Trace, replayed: Replayed, steps: list[ReferenceStep]) -> None:
    shape = replayed.n_hits.shape
    assert replayed.n_hits.tolist() == np.reshape([len(s.hits) for s in steps], shape).tolist()
    for copy, found in enumerate((replayed.n_misses_hi, replayed.n_misses_lo)):
        expected = np.reshape([sum(c[0] == copy for c in s.misses) for s in steps], shape)
        assert found.tolist() == expected.tolist()
    assert replayed.n_skipped.tolist() == np.reshape([s.n_skipped for s in steps], shape).tolist()
    assert replayed.n_evictions == sum(len(s.victims) for s in steps)
    resident = {copy for s in steps for copy in s.misses}
    last_change: dict[tuple[int, int, int], bool] = {}
    for s in steps:
        last_change |= dict.fromkeys(s.misses, True) | dict.fromkeys(s.victims, False)
    for copy in resident:
        assert (replayed.residency[copy] == 2) == last_change[copy]


@pytest.mark.parametrize("name", BUILT_INS)
@pytest.mark.parametrize("n_slots", [3, 7, 20, 32])
def test_every_policy_replays_as_in_python(name: str, n_slots: int) -> None:
    trace = random_trace()
    memory_bytes = n_slots * slot_bytes([1000, 1000, 2000], 512)
    replayed, class_slots = native(trace, name, memory_bytes, None, 0.0)
    assert class_slots == [n_slots]
    steps = replay_in_python(trace, (n_slots, 0), eviction_policy(name), AlwaysHigh())
    compare(trace, replayed, steps)


@pytest.mark.parametrize("name", BUILT_INS)
@pytest.mark.parametrize("precision", [HobbitThresholds(0.4, 0.8), MassBudget(0.5, 0.2)], ids=repr)
def test_mixed_precision_replays_as_in_python(name: str, precision: PrecisionPolicy) -> None:
    trace = random_trace(has_lo=True)
    replayed, class_slots = native(trace, name, 12 * slot_bytes([1000, 1000, 2000], 512), precision, 0.3)
    steps = replay_in_python(trace, (class_slots[0], class_slots[1]), eviction_policy(name), precision)
    compare(trace, replayed, steps)
    assert replayed.n_skipped.any()
    assert replayed.n_misses_lo.any()


@pytest.mark.parametrize("has_lo", [False, True])
def test_what_trained_gates_say_replays_as_in_python(has_lo: bool) -> None:
    precision = HobbitThresholds(0.4, 0.8) if has_lo else None
    trace = random_trace(has_lo=has_lo, is_trained=True)
    share = 0.3 if has_lo else 0.0
    replayed, class_slots = native(trace, "next-use", 12 * slot_bytes([1000, 1000, 2000], 512), precision, share)
    n_slots = (class_slots[0], class_slots[1] if has_lo else 0)
    steps = replay_in_python(trace, n_slots, eviction_policy("next-use"), precision or AlwaysHigh())
    compare(trace, replayed, steps)
    untold = dataclasses.replace(trace, next_chances=None)
    assert native(untold, "next-use", 12 * slot_bytes([1000, 1000, 2000], 512), precision, share)[
        0
    ].n_hits.tolist() != (replayed.n_hits.tolist())


def test_the_default_preset_guesses_by_trained_gates_where_a_trace_has_them() -> None:
    trace = random_trace(is_trained=True)
    assert trace.trained_idxs is not None
    better = trace.trained_idxs.copy()
    for distance in range(1, 4):
        better[:, :-distance, distance - 1] = trace.expert_idxs[:, distance:]
    better = dataclasses.replace(trace, trained_idxs=better)
    for preset, recalls in (("default", 1.0), ("apex", recall_by_distance(trace, PRESETS["apex"])[0])):
        (row,) = judge(better, [PRESETS[preset]], [0.5], with_belady=False)
        assert row.recall[0] == pytest.approx(recalls)
    (row,) = judge(random_trace(), [dataclasses.replace(PRESETS["apex"], predictor="trained-gates")], [0.5])
    assert "predictor trained-gates" in row.not_simulated


def test_bytes_are_those_of_the_misses() -> None:
    trace = random_trace(has_lo=True)
    replayed, _ = native(trace, "lcu", 40_000, HobbitThresholds(0.3, 0.9), 0.3)
    assert np.array_equal(replayed.miss_bytes, replayed.n_misses_hi * 4000 + replayed.n_misses_lo * 1000)


def test_everything_resident_misses_each_expert_once() -> None:
    trace = random_trace()
    replayed, _ = native(trace, "frequency", all_slots_bytes(trace), None, 0.0)
    assert replayed.n_evictions == 0
    used = {(int(layer), int(e)) for row in trace.expert_idxs for layer, ids in enumerate(row) for e in ids}
    assert replayed.n_misses_hi.sum() == len(used)


@pytest.mark.parametrize("n_slots", [3, 5, 9, 20])
def test_belady_bounds_every_policy(n_slots: int) -> None:
    trace = random_trace(n_tokens=60, seed=3)
    memory_bytes = n_slots * slot_bytes([1000, 1000, 2000], 512)
    classes = [-1, 0, 0, 0, 0]
    forced = belady_misses(trace, [n_slots], classes, bypass=False).sum()
    free = belady_misses(trace, [n_slots], classes, bypass=True).sum()
    assert free <= forced
    for name in BUILT_INS:
        assert forced <= native(trace, name, memory_bytes, None, 0.0)[0].n_misses_hi.sum(), name


def test_belady_by_hand() -> None:
    trace = random_trace(n_tokens=6, n_layers=1, n_expert=4, n_used=1)
    trace = dataclasses.replace(
        trace,
        expert_idxs=np.array([0, 1, 2, 0, 1, 3], np.int32).reshape(6, 1, 1),
        predicted_idxs=np.full((6, 1, 3, 1), -1, np.int32),
    )
    # Two slots. Forced: 2 takes the slot of 1, which is needed later than 0. Free not to: 2 is not kept at all.
    assert belady_misses(trace, [2], [-1, 0], bypass=False).sum() == 5
    assert belady_misses(trace, [2], [-1, 0], bypass=True).sum() == 4


def test_recall_counts_what_was_predicted_of_what_was_used() -> None:
    trace = random_trace(n_tokens=400)
    perfect = dataclasses.replace(trace, predicted_idxs=trace.predicted_idxs.copy())
    for distance in range(1, 4):
        perfect.predicted_idxs[:, :-distance, distance - 1] = trace.expert_idxs[:, distance:]
    stacked = Preset("stacked", eviction="lru", predictor="stacked-gates")
    assert recall_by_distance(perfect, stacked) == [1.0, 1.0, 1.0]
    assert all(0.5 < recall < 0.95 for recall in recall_by_distance(trace, stacked))
    assert recall_by_distance(trace, NO_GUESSES) == []


def test_the_oracle_is_always_right() -> None:
    trace = random_trace(n_tokens=200)
    for depth in (1, 3, 0):
        oracle = Preset("oracle", eviction="lru", predictor="oracle", depth=depth)
        gates = Preset("gates", eviction="lru", predictor="stacked-gates", depth=depth)
        assert recall_by_distance(trace, oracle) == [1.0, 1.0, 1.0]
        known, guessed = judge(trace, [oracle, gates], [0.3], machine=Machine(1e6, 1e-3))
        assert known.miss_bytes == guessed.miss_bytes
        assert known.useful_guess_bytes > guessed.useful_guess_bytes
        assert known.stall_s < guessed.stall_s
        replayed = replay_preset(trace, oracle, 0.3)
        assert (replayed.guessed_miss_bytes[:, 1:] == replayed.miss_bytes[:, 1:]).all()  # no layer tells of the first
        assert replayed.guessed_miss_bytes[:, 0].sum() == 0


def test_foreseen_misses_are_counted_and_shorten_the_stall() -> None:
    trace = random_trace()
    presets = [Preset("with", eviction="lru", predictor="stacked-gates"), Preset("without", eviction="lru")]
    ahead, without = judge(trace, presets, [0.3])
    assert ahead.miss_bytes == without.miss_bytes
    assert 0 < ahead.useful_guess_bytes < ahead.miss_bytes
    assert ahead.useful_guess_bytes <= ahead.guess_bytes
    assert without.useful_guess_bytes == without.guess_bytes == 0
    assert ahead.stall_s < ahead.stall_without_prefetch_s == without.stall_s
    assert without.stall_s == pytest.approx(without.miss_bytes / 2e9 / trace.n_tokens)


def test_first_gap_guesses_the_first_layer_that_misses() -> None:
    trace = random_trace()
    fixed = Preset("fixed", eviction="lru", predictor="stacked-gates", depth=3)
    first_gap = dataclasses.replace(fixed, name="first-gap", horizon="first-gap")
    rows = judge(trace, [fixed, first_gap], [0.5])
    assert 0 < rows[1].guess_bytes < rows[0].guess_bytes


def test_every_preset_is_judged() -> None:
    trace = random_trace(has_lo=True, n_used=4)
    rows = judge(trace, list(PRESETS.values()), [0.25, 0.5])
    assert [row.preset for row in rows] == list(PRESETS) * 2
    for row in rows:
        assert (row.precision == "mixed") == (PRESETS[row.preset].precision == "mixed")
        assert row.belady_bypass_miss_bytes <= row.belady_miss_bytes <= row.lru_miss_bytes
        assert row.not_simulated == {
            "baseline": [],
            "moe-infinity": ["predictor request-trace", "reads ahead in idle time"],
            "expertflow": ["predictor hybrid", "reads ahead in idle time"],
            "cache-prior": ["router filter cache-prior"],
        }.get(row.preset, ["reads ahead in idle time"])


def test_idle_time_for_upgrades_is_named_as_not_simulated() -> None:
    policies = (WeightThresholds(0.2), WeightThresholds(0.2, wait_above=0.5))
    trace = random_trace(has_lo=True)
    waits, upgrades = (judge(trace, [PRESETS["default"]], [0.5], precision=policy)[0] for policy in policies)
    assert upgrades.not_simulated == [*waits.not_simulated, "idle time for upgrades"]


class OwnTwoLevelLru(TwoLevelLru):
    """Not a built-in by type, so it is called back."""


class OwnMoeInfinity(MoeInfinity):
    """Likewise."""


@pytest.mark.parametrize("own", [OwnTwoLevelLru(), OwnMoeInfinity()], ids=["two-level-lru", "moe-infinity"])
def test_a_policy_in_python_hears_predictions_as_its_native_twin(own: TwoLevelLru | MoeInfinity) -> None:
    trace = random_trace()
    preset = Preset("ahead", eviction="lru", predictor="stacked-gates", depth=3)
    twin = type(own).__bases__[0]()
    native_form, python_form = (replay_preset(trace, preset, 0.5, eviction=policy) for policy in (twin, own))
    deaf = replay_preset(trace, dataclasses.replace(preset, predictor="none"), 0.5, eviction=twin)
    assert python_form.n_hits.tolist() == native_form.n_hits.tolist()
    assert python_form.residency.tolist() == native_form.residency.tolist()
    assert native_form.n_hits.tolist() != deaf.n_hits.tolist()


def test_a_capacity_below_one_token_is_refused() -> None:
    with pytest.raises(UsageError, match="has room for 2 experts, expected at least the 3"):
        judge(random_trace(), [NO_GUESSES], [2.1 / 32])
