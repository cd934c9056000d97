"""What is read ahead: on whose word, and how far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import UsageError

PREDICTORS: Final = ("stacked-gates", "trained-gates", "previous-token", "request-trace", "hybrid", "none")
HORIZONS: Final = ("fixed", "first-gap", "all-decayed", "expertflow")


@dataclass(frozen=True)
class Prefetch:
    """Reading ahead never changes a result. docs/prefetch.md describes predictors and horizons.

    Args:
        predictor: "stacked-gates" (HOBBIT, arXiv 2411.01433), "trained-gates" (has to be trained), "previous-token",
            "request-trace" (MoE-Infinity, arXiv 2401.14361), "hybrid" (after ExpertFlow, arXiv 2510.26730; has to be
            trained) or "none".
        horizon: "fixed", "first-gap" (HOBBIT), "all-decayed" (MoE-Infinity) or "expertflow".
        depth: Layers looked ahead at most; 0: all of them.
    """

    predictor: str = "stacked-gates"
    horizon: str = "first-gap"
    depth: int = 2

    def __post_init__(self) -> None:
        if self.predictor not in PREDICTORS:
            raise UsageError(f"predictor is {self.predictor!r} and must be one of {', '.join(PREDICTORS)}.")
        if self.horizon not in HORIZONS:
            raise UsageError(f"horizon is {self.horizon!r} and must be one of {', '.join(HORIZONS)}.")
        if self.depth < 0:
            raise UsageError(f"depth is {self.depth} and must be 0 (every layer) or more.")


def as_prefetch(value: bool | str | Prefetch) -> Prefetch:
    """What `Llama(prefetch=...)` means: True the default, False nothing, a name that predictor."""
    if isinstance(value, Prefetch):
        return value
    if isinstance(value, str):
        return Prefetch(predictor=value)
    return Prefetch() if value else Prefetch(predictor="none")
