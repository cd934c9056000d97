"""What counts of a layer's routing get wrong about its next token, learned while it runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .base import Ids

BEFORE, OWN, AFTER = range(3)
"""Where the last token used an expert: in the layer routed before, in the layer itself, in the one routed after."""


class Correction:
    """A linear model of one layer: weights [3 * n_expert, n_expert], a row for each expert and place.

    An expert that the last token used adds its row to the counted chances of the next one.
    """

    def __init__(self, n_expert: int) -> None:
        self._n_expert = n_expert
        self._weights = np.zeros((3 * n_expert, n_expert), np.float32)
        self._rows: list[int] = []
        self.sum = np.zeros(n_expert)
        """What the experts that were added say."""

    def clear(self) -> None:
        """A token begins to be last: forgets which experts were added, not what was learned of them."""
        self._rows = []
        self.sum = np.zeros(self._n_expert)

    def add(self, place: int, experts: Ids) -> None:
        """It used `experts` [n_used]."""
        for expert in experts:
            row = place * self._n_expert + int(expert)
            self._rows.append(row)
            self.sum += self._weights[row]

    def learn(self, rate: float, counted: npt.NDArray[np.float64], experts: Ids) -> None:
        """The token after used `experts` [n_used], where chances `counted` [n_expert] had been counted.

        Each expert that was added takes its part of `rate` times the error. Does nothing if none was.
        """
        if not self._rows:
            return
        used = np.zeros(self._n_expert)
        used[experts] = 1.0
        step = rate / len(self._rows) * (used - (counted + self.sum))
        for row in self._rows:
            self._weights[row] = (self._weights[row].astype(np.float64) + step).astype(np.float32)
