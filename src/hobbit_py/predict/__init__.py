"""Predictors that learn: what they keep beside the model, and how the hybrid one is trained."""

from __future__ import annotations

from .stored import hybrid_path, load_hybrid, load_traces, save_hybrid, save_traces, traces_path
from .training import HybridMaps, Recording, fit_hybrid, recall

__all__ = [
    "HybridMaps",
    "Recording",
    "fit_hybrid",
    "hybrid_path",
    "load_hybrid",
    "load_traces",
    "recall",
    "save_hybrid",
    "save_traces",
    "traces_path",
]
