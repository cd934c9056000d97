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

__all__ = [
    "HI",
    "LO",
    "SKIP",
    "AlwaysHigh",
    "AlwaysLow",
    "HobbitThresholds",
    "MassBudget",
    "PrecisionPolicy",
    "WeightThresholds",
]
