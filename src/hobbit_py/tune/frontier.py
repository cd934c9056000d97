"""Which thresholds and shares of the memory are worth a run: what they read and leave in lo, replayed on a trace.

Threshold and share belong together: the fewer hi copies are wanted, the more memory pays for lo copies. So both are
replayed on a grid, through the engine's own cache, and what another point beats in both figures is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..mixed import full_lo_share
from ..policies import HI, LO, PROMOTE, EvictionPolicy, WeightThresholds, eviction_policy
from ..policies.presets import DEFAULT, Preset
from ..simulate import Trace
from ..simulate.predictions import guesses_of
from ..simulate.replay import all_slots_bytes, make_replay, run_replay
from .candidate import Candidate

LO_SHARES = (0.25, 0.45, 0.6, 0.75, 0.9)
LEAST_LO_SHARE = 0.1  # beside hi copies of their own, of which more are wanted
_MAX_STEPS = 12_288  # 256 tokens of 48 layers: the cache is full after some dozens
_NOTHING_AHEAD = Preset("replay", eviction="lru")


class LoWeight:
    """Decides as WeightThresholds and adds up what that leaves in lo; skips nothing.

    Attributes:
        squares: Squared gate weights of what ran in lo, times `layer_cost` ([n_layers]) of its layer. The error that
            lo copies of a type leave, and with it the KL divergence from exact mode, is about proportional to it.
        n_hi: Experts that ran in hi.
    """

    def __init__(self, thresholds: WeightThresholds, layer_cost: Sequence[float]) -> None:
        self._thresholds, self._wait_above = thresholds, np.float32(thresholds.wait_above)
        self._layer_cost = layer_cost
        self.squares = 0.0
        self.n_hi = 0

    def choose(
        self, layer: int, gate_weights: npt.NDArray[np.float32], resident: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int64]:
        """See PrecisionPolicy."""
        wanted = gate_weights >= np.float32(self._thresholds.hi_above - self._thresholds.fall * layer)
        codes = np.where(wanted | (resident == HI), HI, LO)
        codes[wanted & (resident == LO) & (gate_weights < self._wait_above)] = PROMOTE
        in_lo = gate_weights[codes != HI]
        self.squares += float(in_lo @ in_lo) * self._layer_cost[layer]
        self.n_hi += len(gate_weights) - len(in_lo)
        return codes


@dataclass(frozen=True)
class ReplayCost:
    """Of thresholds and a share on a trace: expert bytes a token, and what is left in lo.

    `waited_bytes` were missing, `upgrade_bytes` are of hi copies read in idle time; `lo_weight` is the squared router
    weight that ran in lo, the mean of tokens and layers; `hi_share` the share of the selected experts that ran in hi.
    """

    waited_bytes: float
    upgrade_bytes: float
    lo_weight: float
    hi_share: float

    @property
    def read_bytes(self) -> float:
        """All that is read for a token."""
        return self.waited_bytes + self.upgrade_bytes


def replay_cost(
    trace: Trace,
    expert_memory_bytes: int,
    thresholds: WeightThresholds,
    lo_share: float,
    *,
    eviction: EvictionPolicy | None = None,
    layer_cost: Sequence[float] | None = None,
) -> ReplayCost:
    """Replays mixed mode from a cold cache, without reading ahead.

    Args:
        trace: With the sizes of lo copies.
        expert_memory_bytes: As of the model.
        thresholds: With skip_below 0.
        lo_share: Of the memory.
        eviction: None: the default.
        layer_cost: [n_layers], of lo weight in each layer; None: 1.
    """
    policy = LoWeight(thresholds, layer_cost or [1.0] * len(trace.n_expert))
    eviction = eviction or eviction_policy(DEFAULT.eviction, DEFAULT.eviction_parameters)
    replay = make_replay(trace, expert_memory_bytes, eviction, policy, lo_share)
    replayed = run_replay(trace, replay, guesses_of(trace, _NOTHING_AHEAD))
    n_steps = trace.n_tokens * len(trace.layers)
    return ReplayCost(
        waited_bytes=float(replayed.miss_bytes.sum() / trace.n_tokens),
        upgrade_bytes=float(replayed.upgrade_bytes.sum() / trace.n_tokens),
        lo_weight=policy.squares / n_steps,
        hi_share=policy.n_hi / n_steps / trace.n_used,
    )


def not_beaten(costs: Sequence[tuple[Candidate, ReplayCost]]) -> list[Candidate]:
    """Those that no other beats, the fewest bytes first: each reads more than the one before and leaves less in lo."""
    kept: list[Candidate] = []
    least = float("inf")
    for candidate, cost in sorted(costs, key=lambda pair: (pair[1].read_bytes, pair[1].lo_weight)):
        if cost.lo_weight < least:
            kept.append(candidate)
            least = cost.lo_weight
    return kept


def lo_shares(memory_share: float, lo_ratio: float, *, has_own_hi: bool = False) -> list[float]:
    """The shares to try, up to where every expert has room in hi or in lo; arguments as of `full_lo_share`."""
    full = full_lo_share(memory_share, lo_ratio)
    shares = (*((LEAST_LO_SHARE,) if has_own_hi else ()), *LO_SHARES[:-1])
    return [*(share for share in shares if share < full), min(full, LO_SHARES[-1])]


def find_frontier(
    trace: Trace, expert_memory_bytes: int, hi_ladder: Sequence[float], *, has_own_hi: bool = False
) -> list[Candidate]:
    """Candidates with the default tilt that no other beats, the fewest bytes first.

    Costs a replay for every value of hi_above and share, 70 of them, with hi copies of their own (`has_own_hi`) 108, on
    one core: 0.4 seconds each for 1,024 tokens of 12 layers with 64 experts, where a run takes longer, and 2 to 4
    seconds for 256 tokens of 48 layers with 128 experts. Of deeper models or longer texts only the first 12,288 steps
    are replayed.
    """
    trace = trace.head(max(1, min(trace.n_tokens, _MAX_STEPS // len(trace.layers))))
    hi_bytes = all_slots_bytes(trace)
    lo_ratio = all_slots_bytes(trace, lo=True) / hi_bytes
    shares = lo_shares(expert_memory_bytes / hi_bytes, lo_ratio, has_own_hi=has_own_hi)
    candidates = [Candidate(hi_above, 0.0, lo_share) for hi_above in hi_ladder for lo_share in shares]
    n_layers = len(trace.n_expert)
    return not_beaten(
        [(c, replay_cost(trace, expert_memory_bytes, c.policy(n_layers), c.lo_share)) for c in candidates]
    )
