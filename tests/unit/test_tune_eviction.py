"""The search for an eviction policy, and its place in the file beside the model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_tuning import TUNING
from traces import random_trace

from hobbit_py.policies import HobbitThresholds, eviction_policy
from hobbit_py.policies.presets import Preset
from hobbit_py.simulate import Trace
from hobbit_py.simulate.predictions import guesses_of
from hobbit_py.simulate.replay import make_replay, run_replay
from hobbit_py.tune import EvictionTuning, load_eviction, load_tuning, save_tuning, tuning_path
from hobbit_py.tune.eviction import candidates, search_eviction

TUNED = EvictionTuning("exact", "multidimensional", {"lru": 0.5, "lfu": 0.5}, 0.8, 1024, 1 << 20)


def miss_bytes(trace: Trace, name: str, parameters: dict[str, float], memory_bytes: int) -> int:
    replay = make_replay(trace, memory_bytes, eviction_policy(name, parameters))
    return int(run_replay(trace, replay, guesses_of(trace, Preset("none", eviction="lru"))).miss_bytes.sum())


def test_candidates_can_all_be_made() -> None:
    found = candidates()
    assert len({(name, tuple(parameters.items())) for name, parameters in found}) == len(found)
    for name, parameters in found:
        eviction_policy(name, parameters)
        if name == "multidimensional":
            assert sum(parameters.values()) == pytest.approx(1)


def test_what_is_found_misses_no_more_than_lru_and_the_default() -> None:
    trace = random_trace(n_tokens=200, seed=5)
    memory_bytes = 50_000
    progress: list[float] = []
    found = search_eviction(trace, memory_bytes, progress=progress.append)
    second = trace.tail(100)
    missed = miss_bytes(second, found.name, found.parameters, memory_bytes)
    lru = miss_bytes(second, "lru", {}, memory_bytes)
    assert missed <= lru
    assert missed <= miss_bytes(second, "next-use", {}, memory_bytes)
    assert found.miss_ratio == missed / lru
    assert progress == sorted(progress)
    assert found.tokens == 200


def test_a_cycle_finds_a_policy_that_beats_lru() -> None:
    """Experts 0, 1, 2 in turn with room for two: LRU always misses."""
    trace = random_trace(n_tokens=60, n_layers=1, n_expert=4, n_used=1)
    cycle = np.arange(60, dtype=np.int32).reshape(60, 1, 1) % 3
    trace = Trace(**{**vars(trace), "expert_idxs": cycle, "predicted_idxs": np.full((60, 1, 3, 1), -1, np.int32)})
    found = search_eviction(trace, 2 * 6000)
    assert found.name != "lru"
    assert found.miss_ratio < 0.9


def test_mixed_precision_is_searched_with_its_thresholds() -> None:
    trace = random_trace(n_tokens=100, has_lo=True)
    found = search_eviction(trace, 50_000, precision=HobbitThresholds(0.3, 1.0), lo_share=0.3)
    assert found.miss_ratio <= 1
    assert (found.precision, search_eviction(trace, 50_000).precision) == ("mixed", "exact")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_round_trip_beside_nothing_else(model: Path) -> None:
    save_tuning([model], None, None, [TUNED])
    assert load_eviction([model], 1 << 20, "exact") == TUNED
    assert load_tuning([model], model) is None


def test_what_is_not_given_stays(model: Path) -> None:
    lo = model.with_name("model.lo-Q3_K.gguf")
    lo.write_bytes(b"lo")
    of_mixed = replace(TUNED, precision="mixed", name="lru", parameters={})
    save_tuning([model], lo, TUNING, [TUNED, of_mixed])
    other = replace(TUNED, name="lfu", parameters={})
    save_tuning([model], None, None, [other])
    assert load_eviction([model], 1 << 20, "exact") == other
    assert load_eviction([model], 1 << 20, "mixed") == of_mixed
    assert load_tuning([model], lo) == TUNING


@pytest.mark.parametrize(("share", "is_used"), [(0.5, False), (0.8, True), (1.2, True), (2.0, False)])
def test_it_is_used_with_about_the_memory_that_it_was_measured_with(model: Path, share: float, is_used: bool) -> None:
    save_tuning([model], None, None, [TUNED])
    assert (load_eviction([model], int(share * TUNED.expert_memory_bytes), "exact") is not None) == is_used


def with_eviction(stored: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return stored | {"eviction": {"exact": stored["eviction"]["exact"] | changes}}


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored | {"schema": 99},
        lambda stored: stored | {"model": []},
        lambda stored: stored | {"eviction": "lru"},
        lambda stored: stored | {"eviction": {"exact": "lru"}},
        lambda stored: stored | {"eviction": {"mixed": stored["eviction"]["exact"]}},
        lambda stored: with_eviction(stored, precision="mixed"),
        lambda stored: with_eviction(stored, name="of-another-package"),
        lambda stored: with_eviction(stored, name=["lru"]),
        lambda stored: with_eviction(stored, parameters={"typo": 0.5}),
        lambda stored: with_eviction(stored, parameters={"lru": 2}),
        lambda stored: with_eviction(stored, parameters={"lru": "much"}),
        lambda stored: with_eviction(stored, expert_memory_bytes=None),
        lambda stored: with_eviction(stored, tokens=10**400),
        lambda stored: stored | {"eviction": {"exact": {"name": "lru"}}},
        lambda stored: [stored],
    ],
)
def test_what_cannot_be_used_counts_as_absent(model: Path, damage: Callable[[dict[str, Any]], Any]) -> None:
    save_tuning([model], None, None, [TUNED])
    path = tuning_path(model)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    assert load_eviction([model], 1 << 20, "exact") is None


def test_another_model_of_that_name_has_its_own(model: Path) -> None:
    save_tuning([model], None, None, [TUNED])
    model.write_bytes(b"GGUF, but longer")
    assert load_eviction([model], 1 << 20, "exact") is None
