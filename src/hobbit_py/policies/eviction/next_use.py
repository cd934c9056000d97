"""A causal stand-in for Belady's rule, of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Codes, Ids, Scores
from .frequency import FadingCounts


@dataclass
class NextUse:
    """Keeps what is likely to be used soon.

    The chance that a layer's next token uses an expert is its rate of late, more if the last token used it too. Layers
    come in turn, so of two equal chances the one whose layer comes sooner is worth more: the next layer counts almost
    in full, the current one, which has just been served, 1 - layer_weight.

    Beside lo copies a hi copy is worth its uses as a token's best expert, which the precision policies ask in hi, and a
    share (later_weight) of the others, which its lo copy would serve as well.
    """

    decay: float = 0.98
    last_weight: float = 0.15
    layer_weight: float = 0.5
    later_weight: float = 0.3

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        self._n_layers, n_most = len(n_expert), max(n_expert, default=0)
        self._counts = [FadingCounts(self._n_layers, n_most, self.decay) for _rank in ("best", "later")]
        self._last = np.zeros((2, self._n_layers, n_most), np.int64)
        self._clock, self._before_pass = np.zeros(self._n_layers, np.int64), np.zeros(self._n_layers, np.int64)
        self._hi_later_weight = self.later_weight if lo_cost > 0 else 1.0
        self._layer = 0

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        self._before_pass[layer] = self._clock[layer]
        for experts in expert_idxs:
            self._clock[layer] += 1
            for rank, of_rank in enumerate((experts[:1], experts[1:])):
                self._counts[rank].add(layer, of_rank, int(self._clock[layer]))
                self._last[rank, layer, of_rank] = self._clock[layer]
        self._layer = layer

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        rates = np.stack([counts.at(self._clock) for counts in self._counts]) * (1.0 - self.decay)
        in_last = self._last > self._before_pass[:, None]
        best, later = (1.0 - self.last_weight) * rates + np.where(in_last, self.last_weight, 0.0)
        wanted = np.stack([best + self._hi_later_weight * later, best + later])
        # 1 for the next layer, n_layers for the current one.
        ahead = (np.arange(self._n_layers) + self._n_layers - self._layer - 1) % self._n_layers + 1
        scores: Scores = wanted * (1.0 - self.layer_weight * ahead / self._n_layers)[:, None]
        return scores

    def reset(self) -> None:
        """Forgotten by decay."""
