"""Finds the eviction policy and its weights that miss least on a trace.

Replays are cheap, so every policy is tried, HOBBIT's weighted sum on a grid of its simplex (arXiv 2411.01433, section
3.4: "weights minimise the miss penalty on a calibration set"). To take what generalises, candidates are ranked on the
first half of the trace and the best few compared on the second with the default, which stays unless it is beaten there.
"""

from __future__ import annotations

from collections.abc import Callable

from ..policies import PrecisionPolicy, eviction_policy
from ..policies.eviction import BUILT_INS
from ..policies.presets import DEFAULT, Preset
from ..simulate import Trace
from ..simulate.predictions import guesses_of
from ..simulate.replay import make_replay, run_replay
from .stored import EvictionTuning

_GRID_STEPS = 3  # of the simplex of four weights: 20 points
_N_FINALISTS = 3
_MIN_GAIN = 0.005  # less than this over the default is noise

_NO_GUESSES = Preset("search", eviction="lru")

Candidate = tuple[str, dict[str, float]]


def candidates(*, is_trained: bool = False) -> list[Candidate]:
    """Every policy with its defaults, and weights to try; `is_trained`: gates were trained for the model."""
    found: list[Candidate] = [(name, {}) for name in BUILT_INS if name != "multidimensional"]
    found += [("frequency", {"decay": decay}) for decay in (0.9, 0.95, 0.99)]
    found += [("next-use", {"decay": decay}) for decay in (0.95, 0.99)]
    found += [("next-use", {"last_weight": weight}) for weight in (0.05, 0.3)]
    found += [("next-use", {"layer_weight": weight}) for weight in (0.0, 0.9)]
    found += [("next-use", {"follow_weight": weight, "mixed_follow_weight": weight}) for weight in (0.0, 0.3, 0.6)]
    found += [("next-use", {"later_weight": weight}) for weight in (0.1, 0.6)]
    found += [("next-use", {"learning_rate": rate}) for rate in (0.0, 0.1)]
    if is_trained:
        found += [("next-use", {"trained_weight": weight}) for weight in (0.0, 0.3, 0.8)]
    found += [("ranked-frequency", {"later_weight": weight}) for weight in (0.1, 0.6)]
    for lru in range(_GRID_STEPS + 1):
        for lfu in range(_GRID_STEPS + 1 - lru):
            for lhu in range(_GRID_STEPS + 1 - lru - lfu):
                parts = (lru, lfu, lhu, _GRID_STEPS - lru - lfu - lhu)
                weights = dict(zip(("lru", "lfu", "lhu", "fld"), (part / _GRID_STEPS for part in parts), strict=True))
                found.append(("multidimensional", weights))
    return found


def search_eviction(
    trace: Trace,
    expert_memory_bytes: int,
    *,
    precision: PrecisionPolicy | None = None,
    lo_share: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> EvictionTuning:
    """The policy that misses the fewest bytes with this memory, in exact mode or with a precision policy.

    Args:
        trace: At least two tokens; the more, the better.
        expert_memory_bytes: As of the model that will run.
        precision: Of mixed mode; None: exact.
        lo_share: Of mixed mode.
        progress: Called with the fraction done.
    """
    middle = trace.n_tokens // 2
    first, second = trace.head(middle), trace.tail(middle)
    tried = candidates(is_trained=trace.is_trained)
    n_done = 0

    def miss_bytes(part: Trace, candidate: Candidate) -> int:
        nonlocal n_done
        replay = make_replay(part, expert_memory_bytes, eviction_policy(*candidate), precision, lo_share)
        missed = int(run_replay(part, replay, guesses_of(part, _NO_GUESSES)).miss_bytes.sum())
        n_done += 1
        if progress is not None:
            progress(min(1.0, n_done / (len(tried) + _N_FINALISTS + 2)))
        return missed

    ranked = sorted(tried, key=lambda candidate: miss_bytes(first, candidate))
    default: Candidate = (DEFAULT.eviction, dict(DEFAULT.eviction_parameters))
    lru_bytes = max(1, miss_bytes(second, ("lru", {})))
    default_bytes = miss_bytes(second, default)
    best_bytes, best = min(
        ((miss_bytes(second, candidate), candidate) for candidate in ranked[:_N_FINALISTS]), key=lambda pair: pair[0]
    )
    if best_bytes >= default_bytes * (1 - _MIN_GAIN):
        best_bytes, best = default_bytes, default
    if best_bytes > lru_bytes:
        best_bytes, best = lru_bytes, ("lru", {})
    return EvictionTuning(
        precision="exact" if precision is None else "mixed",
        name=best[0],
        parameters=best[1],
        miss_ratio=best_bytes / lru_bytes,
        tokens=trace.n_tokens,
        expert_memory_bytes=expert_memory_bytes,
    )
