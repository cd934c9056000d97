"""Turns policies into their native forms; one that has none is called back from the core."""

from __future__ import annotations

import dataclasses

from . import _core
from .errors import UsageError
from .policies import (
    AlwaysHigh,
    AlwaysLow,
    EvictionPolicy,
    HobbitThresholds,
    MassBudget,
    PrecisionPolicy,
    WeightThresholds,
)
from .policies.eviction import BUILT_INS

_EVICTION_NAMES = {policy: name for name, policy in BUILT_INS.items()}


def to_native(policy: PrecisionPolicy) -> _core.PrecisionPolicy:
    """Raises UsageError for an object without a `choose` method."""
    # By exact type: a subclass may have overridden choose().
    if type(policy) is AlwaysHigh:
        return _core.always_high()
    if type(policy) is AlwaysLow:
        return _core.always_low()
    if type(policy) is HobbitThresholds:
        return _core.thresholds(policy.t1, policy.t2, policy.lo_serves_hi)
    if type(policy) is WeightThresholds:
        return _core.weight_thresholds(policy.hi_above, policy.skip_below)
    if type(policy) is MassBudget:
        return _core.mass_budget(policy.lo_mass, policy.skip_mass)
    if not isinstance(policy, PrecisionPolicy):
        raise UsageError(
            f"a precision policy needs a choose(layer, gate_weights, resident) method; {policy!r} has none."
        )
    return _core.python_precision(policy)


def set_eviction(options: _core.LoaderOptions, policy: EvictionPolicy) -> None:
    """Sets the policy that decides what goes.

    A policy that is not a built-in is asked once a layer, before the loader locks, by the thread that computes.

    Raises UsageError for an object that lacks a method of EvictionPolicy.
    """
    name = _EVICTION_NAMES.get(type(policy))
    if name is not None:
        options.eviction = name
        options.eviction_parameters = {
            field.name: float(getattr(policy, field.name))
            for field in dataclasses.fields(policy)  # type: ignore[arg-type]
        }
        return
    if not isinstance(policy, EvictionPolicy):
        raise UsageError(
            f"an eviction policy needs the methods start, on_route, scores and reset; {policy!r} lacks some."
        )
    options.score_source = _core.python_eviction(policy)
