"""Policies: small pure classes that decide what the native core does; each built-in is also native."""

from __future__ import annotations

from .eviction import EvictionPolicy
from .precision import (
    HI,
    LO,
    SKIP,
    AlwaysHigh,
    AlwaysLow,
    HobbitThresholds,
    MassBudget,
    PrecisionPolicy,
    WeightThresholds,
)
from .presets import PRESETS, Preset, preset_of
from .registry import eviction_policy, precision_policy

__all__ = [
    "HI",
    "LO",
    "PRESETS",
    "SKIP",
    "AlwaysHigh",
    "AlwaysLow",
    "EvictionPolicy",
    "HobbitThresholds",
    "MassBudget",
    "PrecisionPolicy",
    "Preset",
    "WeightThresholds",
    "eviction_policy",
    "precision_policy",
    "preset_of",
]
