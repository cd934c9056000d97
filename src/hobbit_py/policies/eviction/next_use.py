"""A causal stand-in for Belady's rule, of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Codes, Ids, Probabilities, Scores
from .correction import AFTER, BEFORE, OWN, Correction
from .followers import Followers
from .frequency import FadingCounts

_PRIOR = 8.0  # uses that a row of followers needs to weigh as much as the rate
_LEAST_SHARE = 0.5  # of a counted chance that a correction leaves


@dataclass
class NextUse:
    """Keeps what is likely to be used soon.

    The chance that a layer's next token uses an expert is put together from its rate of late, from whether the last
    token used it, and from how often it followed the experts that the last token used. Where gates were trained for
    the model, what they say counts as well (trained_weight). To that comes a correction, which takes it down to
    one half at most. Layers come in turn, so of two equal chances the one whose layer comes sooner is worth more: the
    next layer counts almost in full, the current one, which has just been served, 1 - layer_weight.

    Beside lo copies a hi copy is worth its uses as a token's best expert, which the precision policies ask in hi, and a
    share (later_weight) of the others, which its lo copy would serve as well. There are more copies then, so the
    least of them is wanted rarely, and what follows what says less of it (mixed_follow_weight).
    """

    decay: float = 0.98
    last_weight: float = 0.15
    layer_weight: float = 0.5
    follow_weight: float = 0.8
    mixed_follow_weight: float = 0.5
    later_weight: float = 0.3
    learning_rate: float = 0.04
    trained_weight: float = 0.5

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        self._n_layers = len(n_expert)
        n_max = max(n_expert, default=0)
        self._counts = FadingCounts(len(n_expert), n_max, self.decay)
        self._counts_as_best = FadingCounts(len(n_expert), n_max, self.decay)
        self._later_weight = self.later_weight if lo_cost > 0 else 1.0
        self._follow_weight = self.mixed_follow_weight if lo_cost > 0 else self.follow_weight
        self._clock = np.zeros(len(n_expert), np.int64)
        self._last = np.zeros((len(n_expert), n_max), np.int64)
        self._followers = [Followers(n_max) for _ in n_expert]
        self._corrections = [Correction(n_max) for _ in n_expert]
        self._with_experts = [layer for layer, n in enumerate(n_expert) if n > 0]
        self._routed: tuple[int, Ids] | None = None  # the layer that routed last in this sequence, and its last token
        self._counted = np.zeros((len(n_expert), n_max))
        self._chances = np.zeros((len(n_expert), n_max))
        self._hi_shares = np.zeros((len(n_expert), n_max))
        self._layer = 0

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        before_pass = self._clock[layer]
        self._corrections[layer].learn(self.learning_rate, self._counted[layer], expert_idxs[0])
        for experts in expert_idxs:
            self._clock[layer] += 1
            self._counts.add(layer, experts, int(self._clock[layer]))
            self._counts_as_best.add(layer, experts[:1], int(self._clock[layer]))
            self._last[layer, experts] = self._clock[layer]
            self._followers[layer].add(experts)
        self._layer = layer
        uses = self._counts.of_layer(layer, int(self._clock[layer]))
        rates = uses * (1.0 - self.decay)
        in_last = np.where(self._last[layer] > before_pass, self.last_weight, 0.0)
        by_itself = (1.0 - self.last_weight) * rates + in_last
        following = self._followers[layer].chances(rates, _PRIOR)
        self._counted[layer] = (1.0 - self._follow_weight) * by_itself + self._follow_weight * following
        as_best = self._counts_as_best.of_layer(layer, int(self._clock[layer]))
        best = np.divide(as_best, uses, out=np.zeros_like(uses), where=uses > 0)
        self._hi_shares[layer] = self._later_weight + (1.0 - self._later_weight) * best
        if self.learning_rate > 0.0:
            self._correct(layer, expert_idxs[-1])
        self._set_chances(layer)

    def on_next_token(self, layer: int, chances: Probabilities) -> None:
        """See EvictionPolicy."""
        counted = self._counted[layer, : len(chances)]
        counted *= 1.0 - self.trained_weight
        counted += self.trained_weight * chances.astype(np.float64)
        self._set_chances(layer)

    def _correct(self, layer: int, last: Ids) -> None:
        """`last` [n_used]: what the next token comes after."""
        self._corrections[layer].clear()
        self._corrections[layer].add(OWN, last)
        before = self._with_experts[self._with_experts.index(layer) - 1]
        if self._routed is not None and self._routed[0] == before != layer:
            self._corrections[layer].add(BEFORE, self._routed[1])
            self._corrections[before].add(AFTER, last)
            self._set_chances(before)
        self._routed = (layer, np.array(last))

    def _set_chances(self, layer: int) -> None:
        counted = self._counted[layer]
        self._chances[layer] = np.maximum(_LEAST_SHARE * counted, counted + self._corrections[layer].sum)

    def scores(self) -> Scores:
        """See EvictionPolicy."""
        # 1 for the next layer, n_layers for the current one.
        ahead = (np.arange(self._n_layers) + self._n_layers - self._layer - 1) % self._n_layers + 1
        chances = np.stack([self._hi_shares * self._chances, self._chances])
        scores: Scores = chances * (1.0 - self.layer_weight * ahead / self._n_layers)[:, None]
        return scores

    def reset(self) -> None:
        """See EvictionPolicy. Chances stay: they are forgotten by decay."""
        for followers, correction in zip(self._followers, self._corrections, strict=True):
            followers.forget_last()
            correction.clear()
        self._routed = None
