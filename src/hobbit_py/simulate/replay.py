"""Replays a trace through the engine's own cache.

The cache is the loader itself, over a reader that reads nothing: hits, victims and loads are the engine's by
construction. Reading ahead depends on time, which a trace has not, so it does not change what is resident here; what of
the misses had been predicted is counted instead, and the stall estimate draws on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._host import _core
from .._native_policies import set_eviction, to_native
from ..errors import HobbitError
from ..policies import AlwaysHigh, EvictionPolicy, PrecisionPolicy
from .predictions import Guesses
from .trace import Trace


@dataclass(frozen=True)
class Replayed:
    """What happened in each step, [n_tokens, n_steps] with a step a layer; bytes are of expert data."""

    n_hits: npt.NDArray[np.int32]
    n_misses_hi: npt.NDArray[np.int32]
    n_misses_lo: npt.NDArray[np.int32]
    n_skipped: npt.NDArray[np.int32]
    miss_bytes: npt.NDArray[np.int64]
    guessed_miss_bytes: npt.NDArray[np.int64]
    """Of the missing bytes, those that a predictor had named before."""
    guess_bytes: npt.NDArray[np.int64]
    """What was named at this step for later ones and was not resident then."""
    upgrade_bytes: npt.NDArray[np.int64]
    """Hi copies of experts that were served in lo: the engine reads them in idle time, as far as there is some."""
    n_evictions: int
    n_slots: int
    residency: npt.NDArray[np.uint8]
    """[2, n_layers, most experts of a layer], hi copies first: 2 for what was resident at the end."""


def slot_bytes(part_bytes: Sequence[int], alignment: int) -> int:
    """Bytes of the slot of an expert with these matrices: each has room for the aligned range around it."""
    return sum((n_bytes + alignment - 1) // alignment * alignment + alignment for n_bytes in part_bytes if n_bytes)


def all_slots_bytes(trace: Trace, *, lo: bool = False) -> int:
    """Expert memory with a slot for every expert in hi, which capacities are shares of; or in lo."""
    return sum(
        int(n_expert) * slot_bytes([int(n) for n in parts], trace.alignment)
        for n_expert, parts in zip(trace.n_expert, trace.lo_part_bytes if lo else trace.hi_part_bytes, strict=True)
    )


def make_replay(
    trace: Trace,
    expert_memory_bytes: int,
    eviction: EvictionPolicy,
    precision: PrecisionPolicy | None = None,
    lo_share: float = 0.0,
) -> _core.Replay:
    """The cache of the traced model, empty; precision None: exact mode, without lo copies."""
    options = _core.LoaderOptions()
    options.expert_memory_bytes = expert_memory_bytes
    options.lo_share = lo_share
    options.stream_bytes = 0
    set_eviction(options, eviction)
    is_mixed = precision is not None and trace.has_lo
    try:
        return _core.Replay(
            n_expert=trace.n_expert.tolist(),
            n_used=trace.n_used,
            alignment=trace.alignment,
            hi_part_bytes=_ragged(trace.hi_part_bytes),
            lo_part_bytes=_ragged(trace.lo_part_bytes) if is_mixed else [],
            options=options,
            policy=to_native(precision if precision is not None and is_mixed else AlwaysHigh()),
        )
    except RuntimeError as error:  # a policy of one's own
        raise HobbitError(f"{error}.") from error


def run_replay(trace: Trace, replay: _core.Replay, guesses: Guesses) -> Replayed:
    """Runs a whole trace. Raises HobbitError with what a policy of one's own raises."""
    try:
        counts = replay.run(
            trace.layers,
            trace.expert_idxs,
            trace.weights,
            guesses.layers,
            guesses.expert_idxs,
            guesses.weights,
            trace.sequence_starts,
            np.empty(0, np.float32) if trace.next_chances is None else trace.next_chances.astype(np.float32),
            guesses.stop_at_gap,
        )
    except RuntimeError as error:
        raise HobbitError(f"{error}.") from error
    residency = np.zeros((2, len(trace.n_expert), int(trace.n_expert.max())), np.uint8)
    for precision in (_core.Precision.hi, _core.Precision.lo):
        for layer in range(len(trace.n_expert)):
            row = replay.residency(layer, precision)
            residency[int(precision), layer, : len(row)] = row
    return Replayed(
        n_hits=counts.n_hits,
        n_misses_hi=counts.n_misses_hi,
        n_misses_lo=counts.n_misses_lo,
        n_skipped=counts.n_skipped,
        miss_bytes=counts.miss_bytes,
        guessed_miss_bytes=counts.guessed_miss_bytes,
        guess_bytes=counts.guess_bytes,
        upgrade_bytes=counts.upgrade_bytes,
        n_evictions=replay.n_evictions(),
        n_slots=sum(replay.class_slots()),
        residency=residency,
    )


def hi_classes(replay: _core.Replay) -> tuple[list[int], list[int]]:
    """Slots of each size class, [n_classes], and the class of each layer's hi copies, [n_layers], -1 for none."""
    return replay.class_slots(), replay.layer_classes(_core.Precision.hi)


def _ragged(part_bytes: npt.NDArray[np.int64]) -> list[list[int]]:
    return [[int(n) for n in row if n] for row in part_bytes]
