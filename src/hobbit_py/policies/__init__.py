"""Policies: small pure classes that decide what the native core does; each built-in is also native."""

from __future__ import annotations

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
from .prefetch import HORIZONS, PREDICTORS, Prefetch, as_prefetch
from .router_filter import CachePrior, RouterFilter, Substitute

__all__ = [
    "HI",
    "HORIZONS",
    "LO",
    "PREDICTORS",
    "SKIP",
    "AlwaysHigh",
    "AlwaysLow",
    "CachePrior",
    "HobbitThresholds",
    "MassBudget",
    "PrecisionPolicy",
    "Prefetch",
    "RouterFilter",
    "Substitute",
    "WeightThresholds",
    "as_prefetch",
]
