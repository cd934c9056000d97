"""Which experts a token gets, changed in favour of resident ones. Lossy: off unless asked for.

The classes here are the readable form; csrc/policy/ has the same in C++, and that is what runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CachePrior:
    """Scores of resident experts gain `strength` times the layer's mean spread (arXiv 2412.00099).

    Args:
        strength: The paper's lambda, 0 (nothing changes) to 1; quality falls beyond 0.8 there.
        n_protected: The best experts of a token are always selected; 1 for 8-expert models, 2 for fine-grained ones.
    """

    strength: float = 0.2
    n_protected: int = 1
    _spreads: dict[int, list[float]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.strength, "strength", self.n_protected)

    def select(self, layer_idx: int, scores: Scores, resident: npt.NDArray[np.bool_], n_used: int) -> list[int]:
        """The experts selected, best first. scores [n_expert] are logarithms of weights, up to a constant."""
        order = np.argsort(-scores, kind="stable").tolist()
        finite = scores[np.isfinite(scores)]
        spread = self._spreads.setdefault(layer_idx, [0.0, 0.0])
        spread[1] += 1
        spread[0] += (float(finite.max() - finite.min()) - spread[0]) / spread[1]
        bonus = np.float32(self.strength) * np.float32(spread[0])
        biased = scores + np.where(resident, bonus, np.float32(0))
        kept, others = order[: self.n_protected], order[self.n_protected :]
        selected = (kept + sorted(others, key=lambda e: -biased[e]))[:n_used]
        return sorted(selected, key=lambda e: -scores[e])


@dataclass(frozen=True)
class Substitute:
    """A missing expert in a near-tie with one not selected gives way to a resident one (after SMoE, arXiv 2508.18983).

    Args:
        margin: How far from the weight of the first expert not selected a tie reaches, as a share of it, 0 to 1.
        n_protected: The best experts of a token are never replaced.
    """

    margin: float = 0.2
    n_protected: int = 1

    def __post_init__(self) -> None:
        _check(self.margin, "margin", self.n_protected)

    def select(self, layer_idx: int, scores: Scores, resident: npt.NDArray[np.bool_], n_used: int) -> list[int]:
        """The experts selected, best first. scores [n_expert] are logarithms of weights, up to a constant."""
        order = np.argsort(-scores, kind="stable").tolist()
        if n_used >= len(order) or self.margin <= 0:
            return list(order[:n_used])
        edge = scores[order[n_used]]
        above = edge + np.float32(math.log1p(self.margin))
        below = edge + np.float32(math.log1p(-self.margin)) if self.margin < 1 else -np.inf
        selected = _replace_missing(
            order,
            resident,
            n_used,
            self.n_protected,
            lambda e, other: bool(scores[e] < above and scores[other] >= below),
        )
        return sorted(selected, key=lambda e: -scores[e])


@dataclass(frozen=True)
class Reroute:
    """A missing expert gives way to a resident one where the layer's output hardly changes for it.

    The change is judged by the weights, as shares of those selected: the square of the one given up, over that of the
    best resident expert that was not selected. So an expert that counts little goes far, and one that counts much only
    to one that is about as good. Reads about a tenth less than `Substitute` for the same divergence, and with a
    tolerance that falls with depth once more a tenth (docs/router_filters.md).

    Args:
        tolerance: In layer 0, below this the expert gives way, 0 (nothing changes) to 1. With eight experts of equal
            weight one as good costs 0.125, with two 0.5.
        n_protected: The best experts of a token are never replaced.
        fall: By how much less the tolerance is from each layer to the next; where it comes to 0, nothing changes.
    """

    tolerance: float = 0.1
    n_protected: int = 1
    fall: float = 0.0

    def __post_init__(self) -> None:
        _check(self.tolerance, "tolerance", self.n_protected)
        if not math.isfinite(self.fall):
            raise UsageError(f"fall is {self.fall} and must be a finite number.")

    def select(self, layer_idx: int, scores: Scores, resident: npt.NDArray[np.bool_], n_used: int) -> list[int]:
        """The experts selected, best first. scores [n_expert] are logarithms of weights, up to a constant."""
        order = np.argsort(-scores, kind="stable").tolist()
        tolerance = np.float32(self.tolerance) - np.float32(self.fall) * np.float32(layer_idx)
        if n_used >= len(order) or tolerance <= 0:
            return list(order[:n_used])
        weights = scores.astype(np.float64)
        total = np.exp(weights[order[:n_used]] - weights[order[0]]).sum()
        limit = math.log(tolerance) + math.log(total) + weights[order[0]]
        selected = _replace_missing(
            order, resident, n_used, self.n_protected, lambda e, other: bool(2 * weights[e] - weights[other] < limit)
        )
        return sorted(selected, key=lambda e: -scores[e])


RouterFilter = CachePrior | Reroute | Substitute


def _replace_missing(
    order: list[int],
    resident: npt.NDArray[np.bool_],
    n_used: int,
    n_protected: int,
    may: Callable[[int, int], bool],
) -> list[int]:
    """The best n_used of `order`, missing ones from the worst up replaced by others while `may(missing, resident)`."""
    selected, free = order[:n_used], [e for e in order[n_used:] if resident[e]]
    for place in range(n_used - 1, n_protected - 1, -1):
        if resident[selected[place]]:
            continue
        if not free or not may(selected[place], free[0]):
            break
        selected[place] = free.pop(0)
    return selected


def _check(strength: float, name: str, n_protected: int) -> None:
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"{name} is {strength} and must be between 0 and 1.")
    if n_protected < 0:
        raise UsageError(f"n_protected is {n_protected} and must be 0 or more.")
