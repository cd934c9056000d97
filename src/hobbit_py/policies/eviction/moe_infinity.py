"""MoE-Infinity's eviction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Codes, Ids, Probabilities, Scores

_EPSILON = 1e-6  # an expert without uses keeps the order of the layers


@dataclass
class MoeInfinity:
    """The chance that the rest of the request uses an expert, times a bonus for the first layers.

    arXiv 2401.14361 v3, section 5.3: p(e) = (pEAM[e] + eps) / row sum * (1 - layer / L). The chance is what a predictor
    says of the layer, and until there is one the share of the layer's uses in this sequence.
    """

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        self._n_expert = np.maximum(1.0, n_expert)[:, None]  # a layer without experts divides by nothing
        self._shape = (len(n_expert), max(n_expert, default=0))
        self.reset()

    def reset(self) -> None:
        """See EvictionPolicy."""
        self._uses, self._expected = np.zeros(self._shape), np.zeros(self._shape)
        self._is_predicted = np.zeros((self._shape[0], 1), bool)

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        np.add.at(self._uses[layer], expert_idxs.ravel(), 1.0)

    def on_predict(self, source_layer: int, layer: int, expert_idxs: Ids, probabilities: Probabilities) -> None:
        """See SequencePolicy."""
        self._expected[layer] = 0.0
        self._expected[layer, expert_idxs] = probabilities
        self._is_predicted[layer] = True

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        rows = np.where(self._is_predicted, self._expected, self._uses)
        # In order, as the native form adds them up.
        sums = np.array([[sum(row.tolist())] for row in rows])
        chance = (rows + _EPSILON) / (sums + self._n_expert * _EPSILON)
        scores: Scores = chance * (1.0 - np.arange(len(rows)) / len(rows))[:, None]
        return scores
