"""Least frequently and recently used."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Scores, SequencePolicy


@dataclass
class Lfru(SequencePolicy):
    """Uses in this sequence over the tokens since the last one (as arXiv 2608.07911 names its best causal policy)."""

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        scores: Scores = self.n_uses / (1.0 + self.age())
        return scores
