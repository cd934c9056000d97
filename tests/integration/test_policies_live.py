"""Eviction policies and presets in a running model: the simulator agrees with the engine, and results never change."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import ModelFactory, eval_logits, make_prompt
from traces import REPLAYED_PRESETS, assert_agrees

import hobbit_py
from hobbit_py._host import _core
from hobbit_py.errors import HobbitError, UsageError
from hobbit_py.evaluate import Windows
from hobbit_py.policies import (
    PRESETS,
    AlwaysHigh,
    HobbitThresholds,
    PrecisionPolicy,
    Prefetch,
    WeightThresholds,
    eviction_policy,
)
from hobbit_py.policies.eviction import BUILT_INS
from hobbit_py.policies.eviction.base import Codes, Ids, Probabilities, Scores
from hobbit_py.policies.presets import Preset
from hobbit_py.simulate import Trace
from hobbit_py.simulate.judge import replay_preset
from hobbit_py.simulate.predictions import guesses_of, recall_by_distance
from hobbit_py.simulate.record import record_trace
from hobbit_py.simulate.replay import Replayed, all_slots_bytes, make_replay, run_replay

N_TOKENS = 48
WINDOWS = Windows(tuple(tuple(make_prompt(N_TOKENS // 2, seed)) for seed in (1, 2)), ((), ()), 0)


def replayed(trace: Trace, memory_bytes: int, name: str, precision: PrecisionPolicy | None, share: float) -> Replayed:
    replay = make_replay(trace, memory_bytes, eviction_policy(name), precision, share)
    return run_replay(trace, replay, guesses_of(trace, Preset("none", eviction="lru")))


@pytest.mark.parametrize("name", BUILT_INS)
def test_simulator_and_engine_agree(tiny_model: ModelFactory, name: str) -> None:
    path = tiny_model("qwen3moe")
    llama = hobbit_py.Llama(path, n_threads=1, expert_memory=1 << 30, prefetch=False)
    memory_bytes = all_slots_bytes(record_trace(llama, WINDOWS)) // 3
    llama.close()
    llama = hobbit_py.Llama(path, n_threads=1, expert_memory=memory_bytes, eviction=name, prefetch=False)
    trace = record_trace(llama, WINDOWS)
    assert trace.sequence_starts.tolist() == [0, N_TOKENS // 2]
    simulated = replayed(trace, memory_bytes, name, None, 0.0)
    assert_agrees(llama, trace, simulated)
    assert simulated.n_evictions > 0
    llama.close()


@pytest.mark.parametrize("name", ["frequency", "multidimensional", "lcu", "ranked-frequency"])
def test_simulator_and_engine_agree_in_mixed_precision(tiny_model: ModelFactory, name: str, tmp_path: Path) -> None:
    from hobbit_py.pack import pack

    path = tiny_model("qwen3moe")
    lo = pack(path, "Q4_0", tmp_path / "tiny.lo-Q4_0.gguf")
    precision = HobbitThresholds(0.3, 0.8)
    keywords = {"lo": lo, "lo_share": 0.4, "n_threads": 1, "prefetch": False}
    llama = hobbit_py.Llama(path, policy=AlwaysHigh(), expert_memory=1 << 30, **keywords)
    memory_bytes = all_slots_bytes(record_trace(llama, WINDOWS)) // 3
    llama.close()
    llama = hobbit_py.Llama(path, policy=precision, eviction=name, expert_memory=memory_bytes, **keywords)
    trace = record_trace(llama, WINDOWS)
    assert trace.has_lo
    assert (trace.weights > 0).any()
    simulated = replayed(trace, memory_bytes, name, precision, 0.4)
    assert_agrees(llama, trace, simulated)
    assert simulated.n_misses_lo.any()
    assert simulated.n_skipped.any()
    llama.close()


CAPACITY = 0.3  # of the model's experts


@pytest.fixture
def pair(tiny_model: ModelFactory, tmp_path: Path) -> tuple[Path, int]:
    """A model with a lo copy beside it, and the memory that CAPACITY stands for."""
    model = tmp_path / "model.gguf"
    model.symlink_to(tiny_model("qwen3moe"))
    (tmp_path / "model.lo-Q4_0.gguf").symlink_to(tiny_model("qwen3moe", experts_quant="Q4_0"))
    llama = hobbit_py.Llama(model, precision="exact", expert_memory=1 << 30, prefetch=False)
    memory_bytes = int(CAPACITY * all_slots_bytes(record_trace(llama, WINDOWS)))
    llama.close()
    return model, memory_bytes


@pytest.mark.parametrize("name", REPLAYED_PRESETS)
def test_every_preset_replays_as_it_ran(pair: tuple[Path, int], name: str) -> None:
    """All of a preset but what `Judged.not_simulated` names: reads ahead are off."""
    path, memory_bytes = pair
    llama = hobbit_py.Llama(path, preset=name, expert_memory=memory_bytes, n_threads=1, prefetch=False)
    trace = record_trace(llama, WINDOWS)
    is_mixed = PRESETS[name].precision == "mixed"
    assert trace.has_lo == is_mixed
    simulated = replay_preset(trace, replace(PRESETS[name], predictor="none"), CAPACITY)
    assert_agrees(llama, trace, simulated)
    assert simulated.n_evictions > 0
    assert simulated.n_misses_lo.any() == is_mixed
    llama.close()


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.precision == "mixed"])
def test_presets_that_wait_for_few_hi_copies_replay_as_they_ran(pair: tuple[Path, int], name: str) -> None:
    """Without slots for hi copies no upgrade finds room, so the idle time for upgrades does not matter."""
    path, memory_bytes = pair
    precision = WeightThresholds(0.2, wait_above=0.5)
    llama = hobbit_py.Llama(
        path, preset=name, policy=precision, lo_share=1.0, expert_memory=memory_bytes, n_threads=1, prefetch=False
    )
    trace = record_trace(llama, WINDOWS)
    simulated = replay_preset(
        trace, replace(PRESETS[name], predictor="none"), CAPACITY, precision=precision, lo_share=1.0
    )
    stats = llama.stats()
    assert stats.n_hits_lo == simulated.n_hits.sum()
    assert stats.n_misses_lo == simulated.n_misses_lo.sum()
    assert stats.n_streamed == simulated.n_misses_hi.sum() > 0
    assert stats.n_evictions == simulated.n_evictions > 0
    assert llama._engine is not None
    for layer in range(len(trace.n_expert)):
        row = llama._engine.residency(layer, _core.Precision.lo)
        assert row == simulated.residency[int(_core.Precision.lo), layer, : len(row)].tolist()
    waiting = replay_preset(
        trace, replace(PRESETS[name], predictor="none"), CAPACITY, precision=WeightThresholds(0.2), lo_share=1.0
    )
    assert waiting.n_misses_hi.sum() > simulated.n_misses_hi.sum()  # some were served in lo
    llama.close()


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if preset.is_lossless])
def test_lossless_presets_do_not_change_a_bit(tiny_model: ModelFactory, stock_reference: object, preset: str) -> None:
    path = tiny_model("qwen3moe")
    prompt, decode = make_prompt(24), make_prompt(24, 3)
    expected = stock_reference(path, prompt, decode, n_threads=1)  # type: ignore[operator]
    for expert_memory in (0, 300_000, 1 << 30):
        llama = hobbit_py.Llama(
            path,
            preset=preset,
            expert_memory=expert_memory,
            prefetch=False,
            n_ctx=1024,
            n_threads=1,
            logits_all=True,
        )
        assert np.array_equal(eval_logits(llama, prompt, decode), expected)
        llama.close()


def test_presets_choose_the_eviction_policy(tiny_model: ModelFactory) -> None:
    for name, preset in PRESETS.items():
        if preset.router_filter == "none":
            llama = hobbit_py.Llama(tiny_model("qwen3moe"), preset=name, prefetch=False, expert_memory=1 << 20)
            assert llama.eviction == preset.eviction
            llama.close()


def test_what_a_preset_needs_and_is_not_there_is_said(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    with pytest.raises(UsageError, match="There is no preset 'hobit'; did you mean 'hobbit'"):
        hobbit_py.Llama(path, preset="hobit")
    with pytest.raises(UsageError, match="There is no eviction policy 'lruu'; did you mean 'lru'"):
        hobbit_py.Llama(path, eviction="lruu")
    with pytest.raises(UsageError, match="needs the methods start, on_route, scores and reset"):
        hobbit_py.Llama(path, eviction=object())  # type: ignore[arg-type]


class OwnLru:
    """The least recently used expert goes: written as somebody else would."""

    def start(self, n_expert: list[int], lo_cost: float) -> None:
        self.clock = 0
        self.last = np.zeros((len(n_expert), max(n_expert)))

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        for experts in expert_idxs:
            self.clock += 1
            self.last[layer, experts] = self.clock

    def scores(self) -> Scores:
        return self.last

    def reset(self) -> None:
        pass


def test_a_policy_in_python_decides_as_its_native_twin(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    seen = []
    for eviction in (OwnLru(), "lru"):
        llama = hobbit_py.Llama(path, n_threads=1, expert_memory=400_000, eviction=eviction, prefetch=False)
        trace = record_trace(llama, WINDOWS)
        assert llama._engine is not None
        residency = [llama._engine.residency(layer, _core.Precision.hi) for layer in range(len(trace.n_expert))]
        seen.append((residency, llama.stats().n_evictions, llama.stats().n_hits_hi))
        llama.close()
    assert seen[0] == seen[1]
    assert seen[0][1] > 0


class Listener(OwnLru):
    """Keeps what it is told about layers to come."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, Ids, Probabilities]] = []

    def on_predict(self, source_layer: int, layer: int, expert_idxs: Ids, probabilities: Probabilities) -> None:
        self.told.append((source_layer, layer, expert_idxs.copy(), probabilities.copy()))


def test_a_policy_in_python_is_told_predictions(tiny_model: ModelFactory) -> None:
    """They are those of a trace, to the last bit."""
    policy = Listener()
    prefetch = Prefetch("stacked-gates", "fixed", 2)
    llama = hobbit_py.Llama(
        tiny_model("qwen3moe"), n_threads=1, expert_memory=1 << 30, prefetch=prefetch, eviction=policy
    )
    trace = record_trace(llama, WINDOWS)
    llama.close()
    step_of = {int(layer): step for step, layer in enumerate(trace.layers)}
    told = [row for row in policy.told if step_of[row[0]] < step_of[row[1]]]  # the last layers' are of no gates
    assert len(told) == trace.n_tokens * (2 * len(step_of) - 3)
    n_told: Counter[tuple[int, int]] = Counter()
    for source, target, experts, probabilities in told:
        token, distance = n_told[source, target], step_of[target] - step_of[source]
        n_told[source, target] += 1
        assert experts.tolist() == trace.predicted_idxs[token, step_of[source], distance - 1].tolist()
        assert probabilities.tolist() == trace.predicted_weights[token, step_of[source], distance - 1].tolist()
    assert set(n_told.values()) == {trace.n_tokens}


@pytest.mark.parametrize("arch", ["qwen3moe", "llama4", "deepseek2", "glm4moe", "gpt-oss"])
def test_a_trace_has_the_recall_of_the_engine(tiny_model: ModelFactory, arch: str) -> None:
    """Whether or not it reads ahead itself: norms, biases and sigmoids of the routers ahead count in both."""
    preset = Preset("gates", eviction="lru", predictor="stacked-gates")
    seen = []
    for keywords in (
        {"prefetch": Prefetch("stacked-gates", "fixed", 3)},
        {"prefetch": False},
        {"device": "CPU", "expert_vram": 1 << 18},  # a tier, whose experts nobody reads ahead
    ):
        llama = hobbit_py.Llama(tiny_model(arch), n_threads=1, expert_memory=1 << 30, **keywords)
        seen.append(recall_by_distance(record_trace(llama, WINDOWS), preset))
        recall = llama.prediction_recall()
        llama.close()
        if len(seen) == 1:
            assert recall[0] > 0
            assert seen[0] == pytest.approx(recall[: len(seen[0])])
    assert seen[1:] == [seen[0], seen[0]]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("on_predict", "the eviction policy failed: RuntimeError: on_predict is broken"),
        ("start", "the eviction policy failed: RuntimeError: start is broken"),
        ("on_route", "the eviction policy failed: RuntimeError: on_route is broken"),
        ("reset", "the eviction policy failed: RuntimeError: reset is broken"),
        ("scores", r"scores\(\) must return \[\d+, \d+\] numbers"),
    ],
)
def test_errors_of_ones_own_policy_are_told(tiny_model: ModelFactory, method: str, message: str) -> None:
    policy = OwnLru()

    def fail(*_arguments: object) -> object:
        if method == "scores":
            return np.zeros(3)
        raise RuntimeError(f"{method} is broken")

    setattr(policy, method, fail)
    with pytest.raises(HobbitError, match=message):  # noqa: PT012 - wherever it is called first
        llama = hobbit_py.Llama(tiny_model("qwen3moe"), expert_memory=400_000, eviction=policy)
        llama.eval(make_prompt(4))
        llama.reset()
