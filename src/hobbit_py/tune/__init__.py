"""Finds the thresholds of mixed precision on a text, within a given loss (`hobbit tune`); see docs/accuracy.md."""

from __future__ import annotations

from .stored import Tuning, load_tuning, save_tuning, tuning_path

__all__ = ["Tuning", "load_tuning", "save_tuning", "tuning_path"]
