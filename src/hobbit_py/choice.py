"""Which policies a model runs with: those of a preset, what the user says instead, and what was tuned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ._native_policies import to_native, to_native_filter
from .errors import UsageError
from .mixed import tuned_filter
from .policies import (
    CachePrior,
    EvictionPolicy,
    PrecisionPolicy,
    Prefetch,
    Preset,
    RouterFilter,
    Substitute,
    as_prefetch,
    eviction_policy,
    precision_policy,
    preset_of,
)
from .policies.presets import AUTO, DEFAULT
from .tune import load_eviction


@dataclass(frozen=True)
class ChosenEviction:
    """A policy, which it is and where it is from ("lfru, chosen by hobbit tune"), and whether that is hobbit tune."""

    policy: EvictionPolicy
    description: str
    is_tuned: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A preset, and what the user says in place of parts of it; None leaves one to the preset or to what was tuned."""

    preset: Preset
    is_auto: bool
    precision: str
    """"exact", "mixed", or "auto": mixed if there is a lo copy."""
    eviction: EvictionPolicy | str | None
    policy: PrecisionPolicy | None
    skip_renorm: bool
    lo_share: float | None
    host_compute: bool | None
    asked_filter: RouterFilter | None
    asked_prefetch: bool | str | Prefetch | None

    def prefetch(self, *, is_trained: bool) -> Prefetch:
        """What is read ahead; `is_trained`: there are gates trained for the model."""
        if self.asked_prefetch is None or self.asked_prefetch is True:
            preset = (DEFAULT if self.asked_prefetch else self.preset).where_trained(is_trained=is_trained)
            return Prefetch(preset.predictor, preset.horizon, preset.depth)
        return as_prefetch(self.asked_prefetch)

    def router_filter(
        self,
        model_paths: Sequence[str],
        lo: str | os.PathLike[str] | None,
        hi: str | os.PathLike[str] | None,
    ) -> RouterFilter | None:
        """The filter that was asked for, else the preset's, else what was tuned for these copies."""
        if self.asked_filter is not None:
            return self.asked_filter
        match self.preset.router_filter:
            case "cache-prior":
                return CachePrior()
            case "substitute":
                return Substitute()
        is_open = self.is_auto and self.policy is None and self.lo_share is None
        return tuned_filter(model_paths, lo, hi) if is_open and lo is not None else None

    def eviction_for(self, model_paths: Sequence[str], expert_memory_bytes: int, precision: str) -> ChosenEviction:
        """The policy for a model with so much memory for experts, in "exact" or "mixed" mode."""
        if isinstance(self.eviction, str):
            return ChosenEviction(eviction_policy(self.eviction), f"{self.eviction}, as asked")
        if self.eviction is not None:
            return ChosenEviction(self.eviction, f"{type(self.eviction).__name__}, as asked")
        tuned = load_eviction(model_paths, expert_memory_bytes, precision) if self.is_auto else None
        if tuned is not None:
            policy = eviction_policy(tuned.name, tuned.parameters)
            return ChosenEviction(policy, f"{tuned.name}, chosen by hobbit tune", is_tuned=True)
        policy = eviction_policy(self.preset.eviction, self.preset.eviction_parameters)
        return ChosenEviction(policy, self.preset.eviction)


def choose(
    preset: str,
    *,
    precision: str,
    eviction: EvictionPolicy | str | None,
    policy: PrecisionPolicy | str | None,
    skip_renorm: bool,
    lo_share: float | None,
    router_filter: RouterFilter | None,
    prefetch: bool | str | Prefetch | None,
    host_compute: bool | None,
) -> Choice:
    """Checks what was asked for, by the names of Llama's arguments, before anything is loaded; raises UsageError."""
    if precision not in ("auto", "exact", "mixed"):
        raise UsageError(f"precision is {precision!r} and must be 'auto', 'exact' or 'mixed'.")
    if lo_share is not None and not 0.0 <= lo_share <= 1.0:
        raise UsageError(f"lo_share is {lo_share} and must be between 0 and 1.")
    chosen = preset_of(preset)
    if isinstance(eviction, str):
        eviction_policy(eviction)
    elif eviction is not None and not isinstance(eviction, EvictionPolicy):
        raise UsageError(
            f"an eviction policy needs the methods start, on_route, scores and reset; {eviction!r} lacks some."
        )
    if isinstance(policy, str):
        policy = precision_policy(policy)
    if policy is not None:
        to_native(policy)
    if router_filter is not None:
        to_native_filter(router_filter)
    if prefetch is not None:
        as_prefetch(prefetch)
    return Choice(
        preset=chosen,
        is_auto=preset == AUTO,
        precision="exact" if precision == "auto" and chosen.precision == "exact" else precision,
        eviction=eviction,
        policy=policy,
        skip_renorm=skip_renorm,
        lo_share=lo_share,
        host_compute=host_compute,
        asked_filter=router_filter,
        asked_prefetch=prefetch,
    )
