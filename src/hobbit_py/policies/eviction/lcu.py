"""MoE-APEX's least cost used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Scores, SequencePolicy


@dataclass
class Lcu(SequencePolicy):
    """What an expert's uses in this sequence would cost to read again, and how soon its layer comes.

    The second part counts for the experts of the last forward pass alone (doi 10.1145/3779212.3790187). There is
    nothing to tune.
    """

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        cost = self.n_hi + self.lo_cost * self.n_lo
        scores: Scores = cost / self.n_tokens + np.where(self.in_last_pass(), 1.0 / (self.layers_ahead() + 0.1), 0.0)
        return scores
