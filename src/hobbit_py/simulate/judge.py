"""Runs presets over a trace at several cache sizes and puts the figures beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from ..mixed import default_lo_share, default_policy
from ..policies import EvictionPolicy, PrecisionPolicy, Preset, WeightThresholds, eviction_policy
from .belady import belady_misses
from .predictions import guesses_of, is_simulated, recall_by_distance
from .replay import Replayed, all_slots_bytes, hi_classes, make_replay, run_replay
from .trace import Trace


@dataclass(frozen=True)
class Machine:
    """What the stall estimate assumes: the drive's speed, and the time a layer computes, in which it may read ahead."""

    read_bytes_s: float = 2e9
    layer_s: float = 1e-3


@dataclass(frozen=True)
class Judged:
    """One preset at one cache size. Bytes are of expert data over the whole trace.

    miss_bytes are what had to be read since it was not resident; lru_miss_bytes the same of LRU in exact mode, and
    belady_miss_bytes of an exact-mode cache that knows the future (admitting every miss; belady_bypass_miss_bytes: free
    not to). penalty is HOBBIT's: misses a token, a lo miss counting by its bytes. recall has the share of experts
    predicted 1, 2 and 3 layers ahead. stall_s is the estimate of a token's wait, stall_without_prefetch_s the same if
    nothing is read ahead. upgrade_bytes are of hi copies that mixed presets read in idle time for experts served in lo,
    as if there always were some. not_simulated names what of the preset a trace cannot show: what depends on time, what
    learns while it runs, and what changes the routing itself.
    """

    preset: str
    capacity: float
    eviction: str
    precision: str
    n_slots: int
    hit_rate: float
    n_skipped: int
    miss_bytes: int
    lru_miss_bytes: int
    belady_miss_bytes: int
    belady_bypass_miss_bytes: int
    penalty: float
    recall: list[float]
    guess_bytes: int
    useful_guess_bytes: int
    upgrade_bytes: int
    stall_s: float
    stall_without_prefetch_s: float
    not_simulated: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def judge(
    trace: Trace,
    presets: Sequence[Preset],
    capacities: Iterable[float],
    *,
    machine: Machine | None = None,
    evictions: Mapping[str, EvictionPolicy] | None = None,
    precision: PrecisionPolicy | None = None,
    lo_share: float | None = None,
    with_belady: bool = True,
    progress: Callable[[float], None] | None = None,
) -> list[Judged]:
    """Replays every preset at every capacity, a share of the memory that slots for all experts in hi would take.

    Args:
        trace: What is replayed.
        presets: Which systems.
        capacities: Shares, 0 to 1.
        machine: For the stall estimate.
        evictions: Eviction policies instead of the presets' own, by the preset's name.
        precision: Of mixed mode; None: that of a model that was not tuned.
        lo_share: Of mixed mode; likewise.
        with_belady: Whether to compute the bounds, which takes as long as some replays; else they are 0.
        progress: Called with the fraction done.

    Raises:
        UsageError: A capacity is too small for the experts of one token.
    """
    machine = machine or Machine()
    presets = [preset.where_trained(is_trained=trace.is_trained) for preset in presets]
    capacities = list(capacities)
    rows: list[Judged] = []
    n_done, n_runs = 0, len(capacities) * (len(presets) + 1 + 2 * with_belady)

    def done() -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done / n_runs)

    for capacity in capacities:
        memory_bytes = int(capacity * all_slots_bytes(trace))
        lru_replay = make_replay(trace, memory_bytes, eviction_policy("lru"))
        classes = hi_classes(lru_replay)
        _check_capacity(trace, *classes, capacity)
        lru = run_replay(trace, lru_replay, guesses_of(trace, Preset("lru", eviction="lru")))
        done()
        belady = dict.fromkeys((False, True), 0)
        if with_belady:
            for bypass in belady:
                misses = belady_misses(trace, *classes, bypass=bypass)
                belady[bypass] = int((misses * trace.hi_part_bytes.sum(axis=1)).sum())
                done()
        for preset in presets:
            policy = _precision_of(trace, preset, capacity, precision)
            replayed = replay_preset(
                trace,
                preset,
                capacity,
                eviction=(evictions or {}).get(preset.name),
                precision=precision,
                lo_share=lo_share,
            )
            stalls = [_stall_s(replayed, machine, with_prefetch=ahead) for ahead in (True, False)]
            rows.append(
                Judged(
                    preset=preset.name,
                    capacity=capacity,
                    eviction=preset.eviction,
                    precision="exact" if policy is None else "mixed",
                    n_slots=replayed.n_slots,
                    hit_rate=_hit_rate(replayed),
                    n_skipped=int(replayed.n_skipped.sum()),
                    miss_bytes=int(replayed.miss_bytes.sum()),
                    lru_miss_bytes=int(lru.miss_bytes.sum()),
                    belady_miss_bytes=belady[False],
                    belady_bypass_miss_bytes=belady[True],
                    penalty=_penalty(trace, replayed),
                    recall=recall_by_distance(trace, preset),
                    guess_bytes=int(replayed.guess_bytes.sum()),
                    useful_guess_bytes=int(replayed.guessed_miss_bytes.sum()),
                    upgrade_bytes=int(replayed.upgrade_bytes.sum()),
                    stall_s=stalls[0],
                    stall_without_prefetch_s=stalls[1],
                    not_simulated=_not_simulated(trace, preset, policy),
                )
            )
            done()
    return rows


def replay_preset(
    trace: Trace,
    preset: Preset,
    capacity: float,
    *,
    eviction: EvictionPolicy | None = None,
    precision: PrecisionPolicy | None = None,
    lo_share: float | None = None,
) -> Replayed:
    """Replays one preset as a model that was not tuned would run with it; arguments as for `judge`."""
    preset = preset.where_trained(is_trained=trace.is_trained)
    policy = _precision_of(trace, preset, capacity, precision)
    share = 0.0
    if policy is not None:
        lo_ratio = all_slots_bytes(trace, lo=True) / all_slots_bytes(trace)
        share = default_lo_share(trace.n_used, capacity, lo_ratio) if lo_share is None else lo_share
    eviction = eviction or eviction_policy(preset.eviction, preset.eviction_parameters)
    replay = make_replay(trace, int(capacity * all_slots_bytes(trace)), eviction, policy, share)
    return run_replay(trace, replay, guesses_of(trace, preset))


def _precision_of(
    trace: Trace, preset: Preset, capacity: float, precision: PrecisionPolicy | None
) -> PrecisionPolicy | None:
    """None: exact mode."""
    if preset.precision == "exact" or not trace.has_lo:
        return None
    return precision or default_policy(trace.n_used, capacity, len(trace.n_expert))


def _check_capacity(trace: Trace, n_slots: list[int], layer_classes: list[int], capacity: float) -> None:
    if any(n_slots[layer_classes[layer]] < trace.n_used for layer in trace.layers.tolist()):
        raise UsageError(
            f"A capacity of {capacity:.3%} has room for {sum(n_slots)} experts, expected at least the {trace.n_used} "
            f"that one token uses in a layer, for each size of experts; give a larger one."
        )


def _hit_rate(replayed: Replayed) -> float:
    n_hits = int(replayed.n_hits.sum())
    n_asked = n_hits + int(replayed.n_misses_hi.sum() + replayed.n_misses_lo.sum() + replayed.n_skipped.sum())
    return n_hits / n_asked


def _penalty(trace: Trace, replayed: Replayed) -> float:
    hi_bytes = float((trace.n_expert[:, None] * trace.hi_part_bytes).sum())
    lo_cost = float((trace.n_expert[:, None] * trace.lo_part_bytes).sum()) / hi_bytes
    return float(replayed.n_misses_hi.sum() + lo_cost * replayed.n_misses_lo.sum()) / trace.n_tokens


def _stall_s(replayed: Replayed, machine: Machine, *, with_prefetch: bool) -> float:
    """A token's wait for the drive, in seconds.

    A miss that nobody foresaw is waited for in full. What was foreseen has been read while the layer before computed,
    as far as the time sufficed, and the rest is waited for. Wrong guesses cost nothing here: the drive would have been
    idle, and the engine drops them as soon as something is wanted.
    """
    miss_bytes = replayed.miss_bytes.astype(np.float64)
    hidden = np.minimum(replayed.guessed_miss_bytes, machine.layer_s * machine.read_bytes_s) if with_prefetch else 0.0
    return float((miss_bytes - hidden).sum() / machine.read_bytes_s / len(miss_bytes))


def _not_simulated(trace: Trace, preset: Preset, policy: PrecisionPolicy | None) -> list[str]:
    missing = []
    if not is_simulated(trace, preset):
        missing.append(f"predictor {preset.predictor}")
    if preset.predictor != "none":
        missing.append("reads ahead in idle time")
    if isinstance(policy, WeightThresholds) and policy.wait_above > policy.hi_above:
        missing.append("idle time for upgrades")
    if preset.router_filter != "none":
        missing.append(f"router filter {preset.router_filter}")
    return missing
