"""Turns a precision policy into its native form; one that has none is called back from the core."""

from __future__ import annotations

from . import _core
from .errors import UsageError
from .policies import AlwaysHigh, AlwaysLow, HobbitThresholds, MassBudget, PrecisionPolicy, WeightThresholds


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
