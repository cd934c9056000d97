"""Uses that fade: what was used often of late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import Codes, Ids, Scores


class FadingCounts:
    """Counts [n_layers, n_expert] that lose a share with each token of their layer."""

    def __init__(self, n_layers: int, n_expert: int, decay: float) -> None:
        self._decay = decay
        self._values = np.zeros((n_layers, n_expert))
        self._tokens = np.zeros((n_layers, n_expert), np.int64)
        self._powers = np.ones(1)

    def add(self, layer: int, experts: Ids, token: int) -> None:
        """Counts a use of each expert, at the layer's token."""
        for expert in experts:
            age = token - int(self._tokens[layer, expert])
            self._values[layer, expert] = self._values[layer, expert] * self._decay**age + 1.0
            self._tokens[layer, expert] = token

    def at(self, clock: npt.NDArray[np.int64]) -> Scores:
        """The counts now; clock [n_layers] are the layers' tokens."""
        return self._faded(self._values, clock[:, None] - self._tokens)

    def of_layer(self, layer: int, token: int) -> Scores:
        """Counts [n_expert] of one layer at its token."""
        return self._faded(self._values[layer], token - self._tokens[layer])

    def _faded(self, values: Scores, ages: npt.NDArray[np.int64]) -> Scores:
        n_needed = int(ages.max(initial=0)) + 1
        if n_needed > len(self._powers):  # one by one as the core does: numpy's own power differs in the last bit
            self._powers = np.array([self._decay**age for age in range(2 * n_needed)])
        faded: Scores = values * self._powers[ages]
        return faded


@dataclass
class Frequency:
    """Evicts the expert with the fewest recent uses: one counts 1 and keeps `decay` of it with every further token.

    LRU with a memory, much like the LRFU of Lee et al. (IEEE TC 2001). Nothing is reset with a sequence: 200 tokens
    leave 2% of the last one's counts.
    """

    decay: float = 0.98

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        self._clock = np.zeros(len(n_expert), np.int64)
        self._counts = FadingCounts(len(n_expert), max(n_expert, default=0), self.decay)

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        for experts in expert_idxs:
            self._clock[layer] += 1
            self._counts.add(layer, experts, int(self._clock[layer]))

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        return self._counts.at(self._clock)

    def reset(self) -> None:
        """Forgotten by decay."""
