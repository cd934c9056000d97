"""Trained gates in a running model: never another token, the simulator agrees, and text is guessed better."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import N_CTX, ModelFactory, StockReference, eval_logits, make_prompt
from traces import REPLAYED_PRESETS, assert_agrees

import hobbit_py
from hobbit_py.bundled import bundled_model, sample_text
from hobbit_py.evaluate import Windows
from hobbit_py.policies import HORIZONS, Prefetch, eviction_policy
from hobbit_py.policies.eviction import NextUse
from hobbit_py.policies.eviction.base import Probabilities
from hobbit_py.policies.presets import DEFAULT, PRESETS, Preset
from hobbit_py.predict import GateMap, TrainedGates, gates_path, save_gates
from hobbit_py.simulate.judge import replay_preset
from hobbit_py.simulate.predictions import guesses_of, recall_by_distance
from hobbit_py.simulate.record import record_trace
from hobbit_py.simulate.replay import all_slots_bytes, make_replay, run_replay
from hobbit_py.train_predictor import train_predictor

N_TOKENS = 48
WINDOWS = Windows(tuple(tuple(make_prompt(N_TOKENS // 2, seed)) for seed in (1, 2)), ((), ()), 0)
PROMPT = make_prompt(12)
DECODE = make_prompt(24, seed=3)
# Experts are 5 KB; a quarter of them fit, more than the four times a token's that reading ahead asks for.
SPARSE = {"n_layer": 4, "n_expert": 64, "n_expert_used": 2}
CAPACITY = 0.3


def load(path: Path, **options: Any) -> hobbit_py.Llama:
    keywords = {"n_ctx": N_CTX, "n_threads": 1, "n_threads_batch": 1, "precision": "exact", **options}
    return hobbit_py.Llama(path, **keywords)


def copy_with_gates(source: Path, folder: Path, *, width: int | None = None) -> Path:
    """The model with gates that nobody trained: what they say is of no use, but never the same for two tokens."""
    path = folder / "model.gguf"
    shutil.copy(source, path)
    with closing(load(path, expert_memory=1 << 30, prefetch=False)) as llama:
        engine = llama._engine
        assert engine is not None
        n_embd = width or engine.get_int(f"{engine.architecture}.embedding_length", 0)
        layers = [layer for layer, n in enumerate(engine.n_expert) if n]
        n_expert = engine.n_expert
    rng = np.random.default_rng(0)
    maps = {}
    for place, layer in enumerate(layers):
        n_own = n_expert[layer]
        rows = rng.normal(size=(sum(n_expert[other] for other in layers[place : place + 4]), n_embd)) / n_embd**0.5
        rows[:n_own] *= 0.3
        biases = rng.normal(size=len(rows)) * 0.1
        biases[:n_own] += 0.3
        maps[layer] = GateMap(rows.astype(np.float16), biases.astype(np.float32))
    save_gates([str(path)], TrainedGates(3, maps))
    return path


# A softmax, a sigmoid with a bias on the selection, a bias on the router, norms that are not divided out, dense layers.
@pytest.mark.parametrize("arch", ["qwen3moe", "deepseek2", "glm4moe", "gpt-oss", "llama4"])
def test_results_do_not_change(
    tiny_model: ModelFactory, stock_reference: StockReference, tmp_path: Path, arch: str
) -> None:
    source = tiny_model(arch)
    path = copy_with_gates(source, tmp_path)
    expected = stock_reference(source, PROMPT, DECODE)
    for expert_memory in (0, 200_000, 1 << 30):
        with closing(load(path, expert_memory=expert_memory, logits_all=True)) as model:
            assert model.predictor == "trained-gates"
            assert np.array_equal(eval_logits(model, PROMPT, DECODE), expected)
            assert model._engine is not None
            model._engine.check_invariants()


@pytest.mark.parametrize("horizon", HORIZONS)
def test_results_do_not_change_with_what_is_read_ahead(
    tiny_model: ModelFactory, stock_reference: StockReference, tmp_path: Path, horizon: str
) -> None:
    source = tiny_model("qwen3moe", **SPARSE)
    path = copy_with_gates(source, tmp_path)
    prefetch = Prefetch("trained-gates", horizon, 3)
    with closing(load(path, expert_memory="256KiB", prefetch=prefetch, logits_all=True)) as model:
        logits = eval_logits(model, PROMPT, DECODE)
        stats = model.stats()
    assert np.array_equal(logits, stock_reference(source, PROMPT, DECODE))
    assert stats.n_misses_hi > 0


def test_a_device_tier_has_them_too(tiny_model: ModelFactory, stock_reference: StockReference, tmp_path: Path) -> None:
    source = tiny_model("qwen3moe", **SPARSE)
    path = copy_with_gates(source, tmp_path)
    with closing(load(path, device="CPU", expert_vram=1 << 18, expert_memory=1 << 18, logits_all=True)) as model:
        logits = eval_logits(model, PROMPT, DECODE)
        recall = model.prediction_recall()
        engine = model._engine
        assert engine is not None
        engine.check_tier_invariants()
    assert np.array_equal(logits, stock_reference(source, PROMPT, DECODE))
    assert recall[0] > 0


@pytest.mark.parametrize("name", REPLAYED_PRESETS)
def test_every_preset_replays_as_it_ran(tiny_model: ModelFactory, tmp_path: Path, name: str) -> None:
    """Nothing is read ahead, which depends on time: the eviction policy is told of the next token all the same."""
    path = copy_with_gates(tiny_model("qwen3moe"), tmp_path)
    shutil.copy(tiny_model("qwen3moe", experts_quant="Q4_0"), tmp_path / "model.lo-Q4_0.gguf")
    with closing(load(path, expert_memory=1 << 30, prefetch=False)) as llama:
        memory_bytes = int(CAPACITY * all_slots_bytes(record_trace(llama, WINDOWS)))
    with closing(load(path, preset=name, precision="auto", expert_memory=memory_bytes, prefetch=False)) as llama:
        trace = record_trace(llama, WINDOWS)
        assert trace.is_trained == (PRESETS[name].eviction == "next-use")
        simulated = replay_preset(trace, replace(PRESETS[name], predictor="none", prefers_trained=False), CAPACITY)
        assert_agrees(llama, trace, simulated)
        assert simulated.n_evictions > 0


def test_what_next_use_is_told_changes_what_goes(tiny_model: ModelFactory, tmp_path: Path) -> None:
    path = copy_with_gates(tiny_model("qwen3moe"), tmp_path)
    with closing(load(path, expert_memory=1 << 30, prefetch=False)) as llama:
        trace = record_trace(llama, WINDOWS)
    assert trace.next_chances is not None
    memory_bytes = int(CAPACITY * all_slots_bytes(trace))
    misses = []
    for weight in (0.0, 1.0):
        replay = make_replay(trace, memory_bytes, eviction_policy("next-use", {"trained_weight": weight}))
        misses.append(run_replay(trace, replay, guesses_of(trace, Preset("none", eviction="lru"))).n_misses_hi.tolist())
    assert misses[0] != misses[1]


class Told(NextUse):
    """The policy in Python; keeps what it is told of the next token."""

    told: list[tuple[int, Probabilities]]

    def on_next_token(self, layer: int, chances: Probabilities) -> None:
        self.told.append((layer, chances.copy()))
        super().on_next_token(layer, chances)


def test_a_policy_in_python_is_told_what_a_trace_has_and_decides_alike(
    tiny_model: ModelFactory, tmp_path: Path
) -> None:
    path = copy_with_gates(tiny_model("qwen3moe"), tmp_path)
    seen = []
    for policy in (Told(), NextUse()):
        if isinstance(policy, Told):
            policy.told = []
        with closing(load(path, expert_memory=400_000, eviction=policy, prefetch=False)) as llama:
            trace = record_trace(llama, WINDOWS)
            seen.append((llama.stats().n_evictions, llama.stats().n_hits_hi))
        if isinstance(policy, Told):
            assert trace.next_chances is not None
            expected = [
                (int(layer), trace.next_chances[token, step, : trace.n_expert[layer]].tolist())
                for token in range(trace.n_tokens)
                for step, layer in enumerate(trace.layers)
            ]
            assert [(layer, chances.tolist()) for layer, chances in policy.told] == expected
    assert seen[0] == seen[1]
    assert seen[0][0] > 0


@pytest.mark.parametrize("arch", ["qwen3moe", "deepseek2", "gpt-oss"])
def test_a_trace_has_the_recall_of_the_engine(tiny_model: ModelFactory, tmp_path: Path, arch: str) -> None:
    path = copy_with_gates(tiny_model(arch), tmp_path)
    prefetch = Prefetch("trained-gates", "fixed", 3)
    with closing(load(path, expert_memory=1 << 30, prefetch=prefetch)) as llama:
        trace = record_trace(llama, WINDOWS)
        recall = llama.prediction_recall()
    found = recall_by_distance(trace, replace(DEFAULT, predictor="trained-gates"))
    assert recall[0] > 0
    assert found == pytest.approx(recall[: len(found)])
    assert found != recall_by_distance(trace, replace(DEFAULT, predictor="stacked-gates"))


def test_gates_are_trained_once_and_found_by_the_default_preset(tmp_path: Path) -> None:
    path = Path(shutil.copy(bundled_model(), tmp_path / "model.gguf"))
    with pytest.raises(hobbit_py.UsageError, match=r"No gates were trained for .*model\.gguf"):
        load(path, expert_memory="8MiB", prefetch="trained-gates")
    with closing(load(path, expert_memory="8MiB")) as llama:
        assert (llama.predictor, llama.note) == ("stacked-gates", None)
    trained = train_predictor(path, sample_text().read_text(encoding="utf-8"), n_tokens=1536)
    assert trained.gates_path == gates_path(path)
    for distance in range(3):
        assert trained.recall_trained[distance] > trained.recall_gates[distance]
    with closing(load(path, expert_memory="8MiB", prefetch=Prefetch("trained-gates", "fixed", 3), n_batch=1)) as llama:
        llama.eval(llama.tokenize(sample_text().read_bytes())[:128])
        assert llama.prediction_recall()[2] > trained.recall_gates[2]  # text they were trained on
    for keywords, predictor, note in (
        ({}, "trained-gates", "Gates: trained by hobbit tune."),
        ({"prefetch": False}, "none", "Gates: trained by hobbit tune."),  # for what is evicted
        ({"preset": "apex"}, "stacked-gates", None),
        ({"prefetch": "stacked-gates", "eviction": NextUse(trained_weight=0.0)}, "stacked-gates", None),
    ):
        with closing(load(path, expert_memory="8MiB", **keywords)) as llama:  # type: ignore[arg-type]
            assert (llama.predictor, llama.note) == (predictor, note)


def test_gates_of_another_model_count_as_absent(tiny_model: ModelFactory, tmp_path: Path) -> None:
    for number, (options, width) in enumerate((({}, 31), (SPARSE, None))):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = copy_with_gates(tiny_model("qwen3moe"), folder, width=width)
        if options:
            other = folder / "other.gguf"
            shutil.copy(tiny_model("qwen3moe", **options), other)
            with np.load(gates_path(path)) as file:
                arrays = dict(file)
            arrays["model"] = np.array([f"{other.name}:{other.stat().st_size}"])
            np.savez(gates_path(other), **arrays)  # type: ignore[arg-type]
            path = other
        with closing(load(path, expert_memory=1 << 20)) as llama:
            assert llama.predictor == "stacked-gates"
        with pytest.raises(hobbit_py.UsageError, match="No gates were trained"):
            load(path, expert_memory=1 << 20, prefetch="trained-gates")
