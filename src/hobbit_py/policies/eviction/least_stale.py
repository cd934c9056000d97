"""SpecMD's least-stale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Scores, SequencePolicy


@dataclass
class LeastStale(SequencePolicy):
    """What this forward pass used stays longest, since what is left of earlier ones is stale (arXiv 2602.03921).

    Among equals the first layers go first, which are needed again last, and within a layer the oldest.
    """

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        layers = np.arange(self.n_layers)[:, None]
        is_current = (layers <= self.layer) & self.in_last_pass()
        freshness = 1.0 / (2.0 + self.age())
        scores: Scores = np.where(is_current, float(self.n_layers), 0.0) + layers + freshness
        return scores
