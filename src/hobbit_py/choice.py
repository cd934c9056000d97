"""Which policies a model runs with: those of a preset, what the user says instead, and what was tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import UsageError
from .policies import (
    CachePrior,
    EvictionPolicy,
    Prefetch,
    Preset,
    RouterFilter,
    Substitute,
    as_prefetch,
    eviction_policy,
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


@dataclass(frozen=True)
class Choice:
    """A preset and what stands in for parts of it; None leaves that to the preset."""

    preset: Preset
    is_auto: bool
    eviction: EvictionPolicy | str | None

    def precision(self, asked: str) -> str:
        """What `precision` of Llama means: "auto" is the preset's."""
        return "exact" if asked == "auto" and self.preset.precision == "exact" else asked

    def prefetch(self, asked: bool | str | Prefetch | None, *, is_trained: bool = False) -> Prefetch:
        """What is read ahead; `asked` None: as the preset says. `is_trained`: there are gates trained for the model.

        Raises UsageError for a predictor there is none of.
        """
        if asked is None or asked is True:
            preset = (DEFAULT if asked else self.preset).where_trained(is_trained=is_trained)
            return Prefetch(preset.predictor, preset.horizon, preset.depth)
        return as_prefetch(asked)

    def router_filter(self, asked: RouterFilter | None) -> RouterFilter | None:
        """The filter that was asked for, else the preset's."""
        if asked is not None:
            return asked
        return {"none": None, "cache-prior": CachePrior(), "substitute": Substitute()}[self.preset.router_filter]

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


def choose(preset: str, eviction: EvictionPolicy | str | None) -> Choice:
    """Checks what was asked for before anything is loaded; raises UsageError."""
    chosen = preset_of(preset)
    if isinstance(eviction, str):
        eviction_policy(eviction)
    elif eviction is not None and not isinstance(eviction, EvictionPolicy):
        raise UsageError(
            f"an eviction policy needs the methods start, on_route, scores and reset; {eviction!r} lacks some."
        )
    return Choice(chosen, preset == AUTO, eviction)
