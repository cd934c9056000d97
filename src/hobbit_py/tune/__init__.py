"""Finds the thresholds of mixed precision on a text, within a given loss (`hobbit tune`); see docs/accuracy.md."""

from __future__ import annotations

from .copies import TunedCopies, tuned_copies
from .stored import EvictionTuning, Tuning, load_eviction, load_tuning, save_tuning, tuning_path

__all__ = [
    "EvictionTuning",
    "TunedCopies",
    "Tuning",
    "load_eviction",
    "load_tuning",
    "save_tuning",
    "tuned_copies",
    "tuning_path",
]
