"""Least frequently used, per sequence."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Scores, SequencePolicy


@dataclass
class Lfu(SequencePolicy):
    """Evicts the expert with the fewest uses in this sequence."""

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        return self.n_uses.astype(float)
