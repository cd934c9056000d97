"""HOBBIT's weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Scores, SequencePolicy


@dataclass
class Multidimensional(SequencePolicy):
    """HOBBIT's p(t) (arXiv 2411.01433, section 3.4), whose weights the paper does not give; `hobbit tune` finds them.

    lru weighs the last use, lfu the uses and lhu the uses in hi, all in this sequence and over its tokens; fld
    (farthest layer distance) how soon the expert's layer comes.
    """

    lru: float = 0.25
    lfu: float = 0.25
    lhu: float = 0.25
    fld: float = 0.25

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        used = self.lru * self.last + self.lfu * self.n_uses + self.lhu * self.n_hi
        scores: Scores = used / self.n_tokens + self.fld * (1.0 - self.layers_ahead() / self.n_layers)
        return scores
