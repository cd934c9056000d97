"""Least recently used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Codes, Ids, Scores


@dataclass
class Lru:
    """Evicts the expert that was used longest ago, in any sequence.

    One clock for all layers, a tick for each token of a layer: layers that share slots compare by real order.
    """

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        self._clock = 0
        self._last = np.zeros((len(n_expert), max(n_expert, default=0)))

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        for experts in expert_idxs:
            self._clock += 1
            self._last[layer, experts] = self._clock

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        return self._last.copy()

    def reset(self) -> None:
        """What the last sequence left is still best ordered by age."""
