"""Turns policies into their native forms; one that has none is called back from the core."""

from __future__ import annotations

import dataclasses

import numpy as np

from . import _core
from .errors import UsageError
from .policies import (
    AlwaysHigh,
    AlwaysLow,
    CachePrior,
    EvictionPolicy,
    HobbitThresholds,
    MassBudget,
    PrecisionPolicy,
    Prefetch,
    Reroute,
    RouterFilter,
    Substitute,
    WeightThresholds,
)
from .policies.eviction import BUILT_INS
from .predict import HybridMaps, TrainedGates

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
        return _core.weight_thresholds(policy.hi_above, policy.skip_below, policy.wait_above, policy.fall)
    if type(policy) is MassBudget:
        return _core.mass_budget(policy.lo_mass, policy.skip_mass)
    if not isinstance(policy, PrecisionPolicy):
        raise UsageError(
            f"a precision policy needs a choose(layer, gate_weights, resident) method; {policy!r} has none."
        )
    return _core.python_precision(policy)


def to_native_prefetch(prefetch: Prefetch) -> _core.PrefetchOptions:
    """The same in the core's terms."""
    options = _core.PrefetchOptions()
    options.predictor = prefetch.predictor
    options.horizon = prefetch.horizon
    options.depth = prefetch.depth
    return options


def to_native_hybrid(maps: HybridMaps) -> _core.HybridWeights:
    """The same in the core's terms; layers and distances without a map get an empty one."""
    n_layers = max((layer for layer, _ in maps.shifts), default=-1) + 1
    n_ahead = max((distance for _, distance in maps.shifts), default=0)
    nothing = np.zeros((0, 0), np.float32)
    table = [[maps.shifts.get((layer, d + 1), nothing) for d in range(n_ahead)] for layer in range(n_layers)]
    return _core.HybridWeights(maps.token_rows.tolist(), maps.n_token_rows, table)


def to_native_gates(gates: TrainedGates, n_layers: int) -> _core.TrainedGates:
    """The same in the core's terms; of layers beyond n_layers nothing."""
    of_layers = [gates.maps.get(layer) for layer in range(n_layers)]
    rows = [gate_map.rows for gate_map in of_layers if gate_map is not None]
    biases = [[] if gate_map is None else gate_map.biases.tolist() for gate_map in of_layers]
    joined = np.concatenate(rows) if rows else np.zeros((0, 0), np.float16)
    return _core.TrainedGates(gates.n_ahead, np.ascontiguousarray(joined).view(np.uint16), biases)


def to_native_filter(router_filter: RouterFilter) -> tuple[str, float, int, float]:
    """The arguments of Engine.set_router_filter; raises UsageError for something else."""
    if isinstance(router_filter, CachePrior):
        return "cache-prior", router_filter.strength, router_filter.n_protected, 0.0
    if isinstance(router_filter, Reroute):
        return "reroute", router_filter.tolerance, router_filter.n_protected, router_filter.fall
    if isinstance(router_filter, Substitute):
        return "substitute", router_filter.margin, router_filter.n_protected, 0.0
    raise UsageError(f"router_filter is {router_filter!r} and must be a CachePrior, a Reroute or a Substitute.")


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
