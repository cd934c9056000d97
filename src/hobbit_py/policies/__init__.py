"""Policies: small pure classes that decide what the native core does; each built-in is also native."""

from __future__ import annotations

from .eviction import EvictionPolicy
from .precision import (
    HI,
    LO,
    PROMOTE,
    SKIP,
    AlwaysHigh,
    AlwaysLow,
    HobbitThresholds,
    MassBudget,
    PrecisionPolicy,
    WeightThresholds,
)
from .prefetch import HORIZONS, PREDICTORS, Prefetch, as_prefetch
from .presets import PRESETS, Preset, preset_of
from .registry import eviction_policy, precision_policy
from .router_filter import CachePrior, Reroute, RouterFilter, Substitute

__all__ = [
    "HI",
    "HORIZONS",
    "LO",
    "PREDICTORS",
    "PRESETS",
    "PROMOTE",
    "SKIP",
    "AlwaysHigh",
    "AlwaysLow",
    "CachePrior",
    "EvictionPolicy",
    "HobbitThresholds",
    "MassBudget",
    "PrecisionPolicy",
    "Prefetch",
    "Preset",
    "Reroute",
    "RouterFilter",
    "Substitute",
    "WeightThresholds",
    "as_prefetch",
    "eviction_policy",
    "precision_policy",
    "preset_of",
]
