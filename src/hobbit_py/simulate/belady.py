"""Belady's bound: what a cache that knows the future would miss (IBM Systems Journal 5(2), 1966).

Exact mode: hi copies alone, which all have one size in a class of slots, so that furthest-next-use is optimal.
With bypass the expert that was just read need not be kept if it is needed later than everything resident; that is the
honest bound for a cache that may stream, and it is never worse.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .trace import Trace

_NEVER = 1 << 60


@dataclass
class _Class:
    """Slots of one size: when each resident copy is used next, and a heap of that with stale entries in it."""

    n_slots: int
    next_use: dict[int, int] = field(default_factory=dict)
    heap: list[tuple[int, int]] = field(default_factory=list)

    def note(self, key: int, next_use: int) -> None:
        self.next_use[key] = next_use
        heapq.heappush(self.heap, (-next_use, key))

    def furthest(self, pinned: frozenset[int]) -> tuple[int, int] | None:
        """The (key, next use) of the copy needed last; None if all are in use."""
        set_aside = []
        found = None
        while self.heap:
            entry = heapq.heappop(self.heap)
            if self.next_use.get(entry[1]) != -entry[0]:
                continue
            set_aside.append(entry)
            if entry[1] not in pinned:
                found = (entry[1], -entry[0])
                break
        for entry in set_aside:
            heapq.heappush(self.heap, entry)
        return found


def belady_misses(
    trace: Trace, class_slots: Sequence[int], layer_classes: Sequence[int], *, bypass: bool
) -> npt.NDArray[np.int64]:
    """Misses of each layer, [n_layers]; a class has class_slots slots and a layer's copies are in layer_classes."""
    misses = np.zeros(len(trace.n_expert), np.int64)
    classes = [_Class(n) for n in class_slots]
    width = int(trace.n_expert.max())
    next_uses = _next_uses(trace)
    layers = trace.layers.tolist()
    for token_experts, token_next in zip(trace.expert_idxs.tolist(), next_uses.tolist(), strict=True):
        for layer, experts, uses in zip(layers, token_experts, token_next, strict=True):
            cache = classes[layer_classes[layer]]
            keys = [layer * width + expert for expert in experts]
            pinned = frozenset(keys)
            missing = []
            for key, use in zip(keys, uses, strict=True):
                if key in cache.next_use:
                    cache.note(key, use)
                else:
                    missing.append((key, use))
            misses[layer] += len(missing)
            for key, use in missing:
                if len(cache.next_use) >= cache.n_slots:
                    victim = cache.furthest(pinned)
                    if victim is None or (bypass and victim[1] <= use):
                        continue
                    del cache.next_use[victim[0]]
                cache.note(key, use)
    return misses


def _next_uses(trace: Trace) -> npt.NDArray[np.int64]:
    """The step (of all tokens, counted through) at which each expert used is used again, as expert_idxs."""
    n_tokens, n_steps, _n_used = trace.expert_idxs.shape
    next_uses = np.empty(trace.expert_idxs.shape, np.int64)
    coming = np.full((len(trace.n_expert), int(trace.n_expert.max())), _NEVER, np.int64)
    for token in range(n_tokens - 1, -1, -1):
        for step in range(n_steps - 1, -1, -1):
            layer, experts = trace.layers[step], trace.expert_idxs[token, step]
            next_uses[token, step] = coming[layer, experts]
            coming[layer, experts] = token * n_steps + step
    return next_uses
