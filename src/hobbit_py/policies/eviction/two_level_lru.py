"""ExpertFlow's two-level LRU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Codes, Ids, Probabilities, Scores, SequencePolicy
from .lru import Lru

_HIGH_LEVEL = 1e15  # above every clock, and exact beside it


@dataclass
class TwoLevelLru(SequencePolicy):
    """What its layer's last token used and what is predicted for layers to come stays; LRU among the rest.

    arXiv 2510.26730 (Shen et al.): the low level goes first, and only then the high one, again by age.
    """

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        super().start(n_expert, lo_cost)
        self._age = Lru()
        self._age.start(n_expert, lo_cost)
        self._is_expected = np.zeros(self._shape, bool)

    def reset(self) -> None:
        """See EvictionPolicy."""
        super().reset()
        self._is_expected[:] = False

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        super().on_route(layer, expert_idxs, codes)
        self._age.on_route(layer, expert_idxs, codes)
        self._is_expected[layer] = False

    def on_predict(self, source_layer: int, layer: int, expert_idxs: Ids, probabilities: Probabilities) -> None:
        """See SequencePolicy."""
        self._is_expected[layer] = False
        self._is_expected[layer, expert_idxs] = True

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        is_high = self.in_last_pass() | self._is_expected
        scores: Scores = np.where(is_high, _HIGH_LEVEL, 0.0) + self._age.scores()
        return scores
