"""The cache in plain Python: the readable form of what the native replay does, and what it is tested against."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..policies import HI, LO, SKIP, EvictionPolicy, PrecisionPolicy
from .trace import Trace

Copy = tuple[int, int, int]
"""(copy, layer, expert); the copy is 0 for hi and 1 for lo, as in the core."""


@dataclass
class ReferenceCache:
    """One class of slots: which copy is in which."""

    n_slots: int
    slot_of: dict[Copy, int] = field(default_factory=dict)

    def admit(self, copy: Copy, pinned: set[Copy], worth: dict[Copy, float]) -> Copy | None:
        """Gives a copy a slot unless all are in use, free ones first and in order, and returns the victim, if any."""
        free = set(range(self.n_slots)) - set(self.slot_of.values())
        if free:
            self.slot_of[copy] = min(free)
            return None
        candidates = [c for c in self.slot_of if c not in pinned]
        if not candidates:
            return None
        victim = min(candidates, key=lambda c: (worth[c], self.slot_of[c]))
        self.slot_of[copy] = self.slot_of.pop(victim)
        return victim


@dataclass
class ReferenceStep:
    """What a step asked for, in the router's order."""

    hits: list[Copy]
    misses: list[Copy]
    victims: list[Copy]
    n_skipped: int


def replay_in_python(
    trace: Trace,
    n_slots: tuple[int, int],
    eviction: EvictionPolicy,
    precision: PrecisionPolicy,
) -> list[ReferenceStep]:
    """All steps of a trace whose layers share one class of hi slots and one of lo slots, in order."""
    caches = [ReferenceCache(n) for n in n_slots]
    lo_cost = float((trace.n_expert[:, None] * trace.lo_part_bytes).sum()) if n_slots[1] else 0.0
    eviction.start(trace.n_expert.tolist(), lo_cost / float((trace.n_expert[:, None] * trace.hi_part_bytes).sum()))
    starts = set(trace.sequence_starts.tolist())
    step_of = {layer: step for step, layer in enumerate(trace.layers.tolist())}
    steps = []
    for token in range(trace.n_tokens):
        if token in starts:
            eviction.reset()
        for layer, experts, weights in zip(
            trace.layers.tolist(), trace.expert_idxs[token], trace.weights[token], strict=True
        ):
            codes = _choose(precision, layer, experts.tolist(), weights, caches) if n_slots[1] else [HI] * len(experts)
            eviction.on_route(layer, experts[None], np.array([codes], np.int8))
            if trace.next_chances is not None and hasattr(eviction, "on_next_token"):
                chances = trace.next_chances[token, step_of[layer], : trace.n_expert[layer]]
                eviction.on_next_token(layer, chances.astype(np.float32))
            scores = eviction.scores()
            scores = np.broadcast_to(scores, (2, *scores.shape[-2:]))
            steps.append(_step(layer, experts.tolist(), codes, caches, scores.tolist()))
    return steps


def _choose(
    precision: PrecisionPolicy, layer: int, experts: list[int], weights: np.ndarray, caches: list[ReferenceCache]
) -> list[int]:
    order = np.argsort(-weights, kind="stable")
    resident = [
        HI if (0, layer, e) in caches[0].slot_of else LO if (1, layer, e) in caches[1].slot_of else SKIP
        for e in experts
    ]
    sorted_weights = weights[order] * np.float32(1.0 / np.add.accumulate(weights)[-1])
    chosen = precision.choose(layer, sorted_weights, np.array(resident, np.int8)[order])
    codes = [SKIP] * len(experts)
    for rank, code in zip(order.tolist(), chosen, strict=True):
        codes[rank] = int(code)
    return codes


def _step(
    layer: int, experts: list[int], codes: list[int], caches: list[ReferenceCache], scores: list[list[list[float]]]
) -> ReferenceStep:
    wanted = [(0 if code == HI else 1, layer, e) for e, code in zip(experts, codes, strict=True) if code != SKIP]
    step = ReferenceStep([], [], [], len(experts) - len(wanted))
    for copy in wanted:
        (step.hits if copy in caches[copy[0]].slot_of else step.misses).append(copy)
    # All that is resident is pinned before anything is admitted.
    pinned = set(step.hits)
    for copy in step.misses:
        # A hi copy serves whatever its lo copy would, so beside it the lo copy is the first to go.
        worth = {
            c: -1.0 if c[0] == 1 and (0, *c[1:]) in caches[0].slot_of else scores[c[0]][c[1]][c[2]]
            for c in caches[copy[0]].slot_of
        }
        victim = caches[copy[0]].admit(copy, pinned, worth)
        if victim is not None:
            step.victims.append(victim)
        pinned.add(copy)
    return step
