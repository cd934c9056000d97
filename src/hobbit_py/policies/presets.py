"""The published systems as data: which policy each uses for what. docs/policies.md says where each choice is from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from ..errors import UsageError

Predictor = Literal["none", "stacked-gates", "trained-gates", "previous-token", "request-trace", "hybrid", "oracle"]
"""The oracle, which is always right, is the simulator's alone."""
Horizon = Literal["fixed", "first-gap", "all-decayed", "expertflow"]
RouterFilter = Literal["none", "cache-prior", "substitute"]

AUTO = "auto"


@dataclass(frozen=True)
class Preset:
    """One system. Policies are named as in `hobbit_py.policies.registry`.

    `precision` "mixed" means: where there is a lo copy, with the thresholds that were tuned or else the default ones.
    `depth` is the farthest layer ahead that is predicted, 0: the last one. `prefers_trained`: with gates trained for
    the model, if there are any, in place of its predictor. `is_lossless` holds without a lo copy as well.
    """

    name: str
    eviction: str
    eviction_parameters: MappingProxyType[str, float] = field(default_factory=lambda: MappingProxyType({}))
    precision: Literal["exact", "mixed"] = "exact"
    predictor: Predictor = "none"
    horizon: Horizon = "fixed"
    depth: int = 1
    prefers_trained: bool = False
    router_filter: RouterFilter = "none"

    @property
    def is_lossless(self) -> bool:
        """Whether its tokens are those of exact mode."""
        return self.precision == "exact" and self.router_filter == "none"

    def where_trained(self, *, is_trained: bool) -> Preset:
        """The preset as it runs a model that gates were trained for, or were not."""
        return replace(self, predictor="trained-gates") if is_trained and self.prefers_trained else self


DEFAULT = Preset(
    "default",
    eviction="next-use",
    precision="mixed",
    predictor="stacked-gates",
    horizon="first-gap",
    depth=2,
    prefers_trained=True,
)
"""What "auto" is for a model that was not tuned: our own, since it missed least on every trace (docs/policies.md)."""

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("baseline", eviction="lru"),
        Preset("mixtral-offloading", eviction="lru", predictor="stacked-gates"),
        Preset(
            "hobbit",
            eviction="multidimensional",
            precision="mixed",
            predictor="stacked-gates",
            horizon="first-gap",
            depth=3,
        ),
        Preset("apex", eviction="lcu", precision="mixed", predictor="stacked-gates", horizon="first-gap", depth=3),
        Preset("moe-infinity", eviction="moe-infinity", predictor="request-trace", horizon="all-decayed", depth=0),
        Preset("expertflow", eviction="two-level-lru", predictor="hybrid", horizon="expertflow", depth=3),
        Preset("cache-prior", eviction="lru", router_filter="cache-prior"),
        DEFAULT,
    )
}


def preset_of(name: str) -> Preset:
    """Returns a preset by name; raises UsageError, with the nearest name, for one that does not exist.

    "auto" is the default here: what was tuned for a model is known where that is loaded (`hobbit_py.choice`).
    """
    if name == AUTO:
        return DEFAULT
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, [AUTO, *PRESETS], n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"the presets are {', '.join([AUTO, *PRESETS])}."
        raise UsageError(f"There is no preset {name!r}; {hint}")
    return PRESETS[name]
