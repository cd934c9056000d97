"""Traces made up for tests."""

import numpy as np

import hobbit_py
from hobbit_py._host import _core
from hobbit_py.policies import PRESETS
from hobbit_py.simulate import Trace
from hobbit_py.simulate.replay import Replayed

# With a router filter eviction policies are told what the router chose, and a trace holds what became of that.
REPLAYED_PRESETS = [name for name, preset in PRESETS.items() if preset.router_filter == "none"]


def random_trace(
    *,
    n_tokens: int = 40,
    n_layers: int = 4,
    n_expert: int = 8,
    n_used: int = 3,
    has_lo: bool = False,
    seed: int = 0,
    is_trained: bool = False,
) -> Trace:
    """Skewed routing of layers 1 .. n_layers (layer 0 is dense), in two sequences; all slots have one size."""
    rng = np.random.default_rng(seed)
    shape = (n_tokens, n_layers, n_used)
    ids, predicted = np.empty(shape, np.int32), np.full((n_tokens, n_layers, 3, n_used), -1, np.int32)
    for layer in range(n_layers):
        skew = rng.dirichlet(np.full(n_expert, 0.5)) + 0.01
        for token in range(n_tokens):
            ids[token, layer] = rng.choice(n_expert, n_used, replace=False, p=skew / skew.sum())
    for distance in range(1, 4):
        if distance < n_layers:
            predicted[:, :-distance, distance - 1] = ids[:, distance:]
            wrong = rng.random((n_tokens, n_layers - distance)) < 0.5
            predicted[:, :-distance, distance - 1][wrong] = np.arange(n_used)
    weights = np.sort(rng.dirichlet(np.ones(n_used), shape[:2]).astype(np.float32), axis=2)[:, :, ::-1].copy()
    part_bytes = np.zeros((n_layers + 1, 3), np.int64)
    part_bytes[1:] = [1000, 1000, 2000]
    trained: dict[str, np.ndarray] = {}
    if is_trained:
        chances = np.round(rng.random((n_tokens, n_layers, n_expert)) * 64) / 64
        trained = {
            "trained_idxs": predicted,
            "trained_weights": np.full(predicted.shape, 0.5, np.float32),
            "next_chances": chances.astype(np.float16),
        }
    return Trace(
        model="made-up.gguf",
        alignment=512,
        tokens=rng.integers(0, 100, n_tokens).astype(np.int32),
        sequence_starts=np.array([0, n_tokens // 2], np.int64),
        layers=np.arange(1, n_layers + 1, dtype=np.int32),
        expert_idxs=ids,
        weights=weights,
        predicted_idxs=predicted,
        predicted_weights=np.full(predicted.shape, 0.25, np.float32),
        n_expert=np.array([0] + [n_expert] * n_layers, np.int64),
        hi_part_bytes=part_bytes,
        lo_part_bytes=part_bytes // 4 * has_lo,
        **trained,
    )


def assert_agrees(llama: hobbit_py.Llama, trace: Trace, simulated: Replayed) -> None:
    """What a model did, and holds now, is what the replay of its trace says."""
    stats = llama.stats()
    assert stats.n_hits_hi + stats.n_hits_lo == simulated.n_hits.sum()
    assert stats.n_misses_hi == simulated.n_misses_hi.sum()
    assert stats.n_misses_lo == simulated.n_misses_lo.sum()
    assert stats.n_evictions == simulated.n_evictions
    assert stats.read_bytes == simulated.miss_bytes.sum()
    assert llama._engine is not None
    for precision in (_core.Precision.hi, _core.Precision.lo):
        for layer in range(len(trace.n_expert)):
            row = llama._engine.residency(layer, precision)
            assert row == simulated.residency[int(precision), layer, : len(row)].tolist()
