"""Predictors that learn: what they keep beside the model, and how hybrid and trained gates are fitted."""

from __future__ import annotations

from .gates import N_AHEAD, GateMap, TrainedGates, fit_gates, trained_recall
from .samples import RouterSamples
from .stored import (
    gates_path,
    hybrid_path,
    load_gates,
    load_hybrid,
    load_traces,
    save_gates,
    save_hybrid,
    save_traces,
    traces_path,
)
from .training import HybridMaps, Recording, fit_hybrid, recall

__all__ = [
    "N_AHEAD",
    "GateMap",
    "HybridMaps",
    "Recording",
    "RouterSamples",
    "TrainedGates",
    "fit_gates",
    "fit_hybrid",
    "gates_path",
    "hybrid_path",
    "load_gates",
    "load_hybrid",
    "load_traces",
    "recall",
    "save_gates",
    "save_hybrid",
    "save_traces",
    "traces_path",
    "trained_recall",
]
