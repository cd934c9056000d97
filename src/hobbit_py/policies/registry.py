"""Policies by name: the built-ins, and those of other packages.

A package adds its own through the entry-point group `hobbit_py.policies`: each entry point names a class that is called
without arguments and makes an eviction policy (it has `scores`) or a precision policy (it has `choose`). A built-in's
name cannot be taken.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from ..errors import UsageError
from .eviction import BUILT_INS, EvictionPolicy
from .precision import AlwaysHigh, AlwaysLow, HobbitThresholds, MassBudget, PrecisionPolicy, WeightThresholds

ENTRY_POINT_GROUP = "hobbit_py.policies"
PRECISION_BUILT_INS: dict[str, type[PrecisionPolicy]] = {
    "always-high": AlwaysHigh,
    "always-low": AlwaysLow,
    "thresholds": HobbitThresholds,
    "mass-budget": MassBudget,
    "weight-thresholds": WeightThresholds,
}


def eviction_policy(name: str, parameters: Mapping[str, float] | None = None) -> EvictionPolicy:
    """Makes an eviction policy; parameters are for built-ins. Raises UsageError for an unknown name or parameter."""
    if name in BUILT_INS:
        return _built_in(BUILT_INS[name], name, parameters or {})
    policy = _plug_in(name, BUILT_INS, "eviction")
    if not isinstance(policy, EvictionPolicy):
        raise UsageError(
            f"The policy {name!r} cannot evict: it needs the methods start, on_route, scores and reset; "
            f"{policy!r} lacks some."
        )
    return policy


def precision_policy(name: str) -> PrecisionPolicy:
    """Makes a precision policy. Raises UsageError for an unknown name."""
    if name in PRECISION_BUILT_INS:
        return PRECISION_BUILT_INS[name]()
    policy = _plug_in(name, PRECISION_BUILT_INS, "precision")
    if not isinstance(policy, PrecisionPolicy):
        raise UsageError(f"The policy {name!r} cannot choose copies: it needs a method choose; {policy!r} has none.")
    return policy


def _built_in(make: Callable[..., EvictionPolicy], name: str, parameters: Mapping[str, float]) -> EvictionPolicy:
    try:
        return make(**parameters)
    except TypeError:
        raise UsageError(f"The eviction policy {name!r} has not all of the parameters {sorted(parameters)}.") from None


def _plug_in(name: str, built_ins: Mapping[str, object], kind: str) -> object:
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        known = [*built_ins, *found]
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}."
        raise UsageError(f"There is no {kind} policy {name!r}; {hint}")
    try:
        return found[name].load()()
    except Exception as error:  # whatever another package raises, its user needs to know which it was
        raise UsageError(f"The policy {name!r} of {found[name].value} cannot be made: {error}") from error
