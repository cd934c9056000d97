"""Which experts of a layer follow which from one token to the next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .base import Ids

MAX_COUNT = 255


class Followers:
    """Counts of one layer, [n_expert, n_expert]: how often each was used by the token after one that used another.

    A row is halved when its expert was used MAX_COUNT times, so what it says is of the last one or two hundred uses.
    """

    def __init__(self, n_expert: int) -> None:
        self._counts = np.zeros((n_expert, n_expert), np.int64)
        self._n_uses = np.zeros(n_expert, np.int64)
        self._last: list[int] = []

    def add(self, experts: Ids) -> None:
        """A token used `experts` [n_used]; the one before it used those of the last call."""
        for expert in self._last:
            if self._n_uses[expert] == MAX_COUNT:
                self._n_uses[expert] //= 2
                self._counts[expert] //= 2
            self._n_uses[expert] += 1
            self._counts[expert, experts] += 1
        self._last = [int(expert) for expert in experts]

    def forget_last(self) -> None:
        """What comes next follows nothing."""
        self._last = []

    def chances(self, rates: npt.NDArray[np.float64], prior: float) -> npt.NDArray[np.float64]:
        """After add(), chances [n_expert] of being used after the last token: the mean of what its experts say.

        Each says how often an expert followed it, as if it had been used `prior` times more and `rates` [n_expert] had
        held then.
        """
        chances = np.zeros(len(rates))
        for expert in self._last:
            chances += (self._counts[expert] + prior * rates) / (self._n_uses[expert] + prior)
        return chances / len(self._last)
