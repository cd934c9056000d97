"""Decayed frequency that knows what mixed precision wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Codes, Ids, Scores
from .frequency import FadingCounts


@dataclass
class RankedFrequency:
    """A hi copy is worth its uses as a token's best expert and a share of the others, a lo copy the others alone.

    The best expert needs its hi copy, the others are served by either. Ranks count, not the copies that were used:
    those depend on what happened to be resident.
    """

    decay: float = 0.98
    later_weight: float = 0.3

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        self._clock = np.zeros(len(n_expert), np.int64)
        self._best, self._later = (
            FadingCounts(len(n_expert), max(n_expert, default=0), self.decay) for _rank in ("best", "later")
        )

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        for experts in expert_idxs:
            self._clock[layer] += 1
            self._best.add(layer, experts[:1], int(self._clock[layer]))
            self._later.add(layer, experts[1:], int(self._clock[layer]))

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        later = self._later.at(self._clock)
        return np.stack([self._best.at(self._clock) + self.later_weight * later, later])

    def reset(self) -> None:
        """Forgotten by decay."""
