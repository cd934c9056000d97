"""What an eviction policy is, and the records that most of them score by.

A policy is told what each layer routed and gives every copy a score; when room is needed, the copy with the smallest
score goes, of equal ones that in the lowest slot. It has no clock but the tokens. Calls come in the model's order, each
layer once a forward pass; `scores` is asked after each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..precision import HI, LO

Ids = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int8]
Scores = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float32]


@runtime_checkable
class EvictionPolicy(Protocol):
    """What a policy of one's own must have. `on_predict`, see `SequencePolicy`, and `on_next_token` are optional.

    `on_next_token(layer, chances)` comes after `on_route` of that layer where gates were trained for the model: with
    which chance the token after the batch uses each expert of the layer, [n_expert]. Not after a large batch.
    """

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """Begins anew for a model: experts of each layer (0: none), and bytes of a lo copy over those of a hi copy."""
        ...

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """A layer routed a batch: both [n_tokens, n_used], best expert first; codes of SKIP, LO and HI."""
        ...

    def scores(self) -> Scores:
        """The worth of each copy, 0 or more: [n_layers, max(n_expert)], or [2, ...] for hi and lo copies apart."""
        ...

    def reset(self) -> None:
        """A new sequence begins."""
        ...


class SequencePolicy:
    """Base of the built-ins: uses of each expert in this sequence, [n_layers, max(n_expert)] each.

    `last` counts the layer's own tokens from 1, 0 for never; `clock` [n_layers] is how many a layer has routed and
    `before_pass` [n_layers] what it was before the last batch.
    """

    def start(self, n_expert: Sequence[int], lo_cost: float) -> None:
        """See EvictionPolicy."""
        self.n_layers = len(n_expert)
        self.n_expert = np.array(n_expert, np.int64)
        self.lo_cost = lo_cost
        self._shape = (self.n_layers, max(n_expert, default=0))
        SequencePolicy.reset(self)

    def reset(self) -> None:
        """See EvictionPolicy."""
        self.n_uses, self.n_hi, self.n_lo, self.last = (np.zeros(self._shape, np.int64) for _ in range(4))
        self.clock = np.zeros(self.n_layers, np.int64)
        self.before_pass = np.zeros(self.n_layers, np.int64)
        self.layer = 0
        self.n_tokens = 1

    def on_route(self, layer: int, expert_idxs: Ids, codes: Codes) -> None:
        """See EvictionPolicy."""
        self.before_pass[layer] = self.clock[layer]
        for experts, row in zip(expert_idxs, codes, strict=True):
            self.clock[layer] += 1
            self.n_uses[layer, experts] += 1
            self.n_hi[layer, experts] += row == HI
            self.n_lo[layer, experts] += row == LO
            self.last[layer, experts] = self.clock[layer]
        self.layer = layer
        self.n_tokens = int(self.clock[layer])

    def on_predict(self, source_layer: int, layer: int, expert_idxs: Ids, probabilities: Probabilities) -> None:
        """What is expected of `layer`, as seen at source_layer; replaces what was expected of it before."""

    def age(self) -> npt.NDArray[np.int64]:
        """Tokens of its layer since an expert was used."""
        age: npt.NDArray[np.int64] = self.clock[:, None] - self.last
        return age

    def in_last_pass(self) -> npt.NDArray[np.bool_]:
        """Whether an expert was used in the last batch that its layer routed."""
        used: npt.NDArray[np.bool_] = self.last > self.before_pass[:, None]
        return used

    def layers_ahead(self) -> Scores:
        """Layers from the current one on to each, going round, [n_layers, 1]."""
        ahead: Scores = ((np.arange(self.n_layers) + self.n_layers - self.layer) % self.n_layers).astype(np.float64)
        return ahead[:, None]
