"""What the engine counted and where its experts are, in the API's terms."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from ._host import _core
from .stats import Stats

ABSENT, LOADING, LO, HI = range(4)  # of `Llama.residency`
_READY = 2  # of the engine's residency


def read_residency(engine: _core.Engine) -> list[list[int]]:
    """[n_layers][n_expert] of `ABSENT`, `LOADING`, `LO` and `HI`."""
    n_layers = engine.get_int(f"{engine.architecture}.block_count", 0)
    return [
        [
            HI if hi == _READY else LO if lo == _READY else LOADING if hi or lo else ABSENT
            for hi, lo in zip_longest(
                engine.residency(layer_idx, _core.Precision.hi),
                engine.residency(layer_idx, _core.Precision.lo),
                fillvalue=0,
            )
        ]
        for layer_idx in range(n_layers)
    ]


def read_stats(engine: _core.Engine, memory_bytes: int) -> Stats:
    """All counters since the model was loaded; `memory_bytes` is the budget that it was granted."""
    loader = engine.loader_stats()
    counts = engine.step_counters()
    stats = Stats(
        n_hits_hi=loader.n_hits_hi,
        n_hits_lo=loader.n_hits_lo,
        n_misses_hi=loader.n_misses_hi,
        n_misses_lo=loader.n_misses_lo,
        n_streamed=loader.n_streamed,
        read_bytes_hi=loader.read_bytes_hi,
        read_bytes_lo=loader.read_bytes_lo,
        n_reads=loader.n_reads,
        n_retries=loader.n_retries,
        n_evictions=loader.n_evictions,
        n_prefetched=loader.n_prefetched,
        n_prefetch_used=loader.n_prefetch_used,
        n_prefetch_late=loader.n_prefetch_late,
        n_prefetch_wasted=loader.n_prefetch_wasted,
        prefetched_bytes=loader.prefetched_bytes,
        prefetch_useful_bytes=loader.prefetch_useful_bytes,
        prefetch_late_bytes=loader.prefetch_late_bytes,
        prefetch_wasted_bytes=loader.prefetch_wasted_bytes,
        prefetch_cancelled_bytes=loader.prefetch_cancelled_bytes,
        n_upgraded=loader.n_upgraded,
        wanted_bytes=loader.wanted_bytes,
        stall_us=loader.stall_us,
        n_layer_steps=counts.n_layer_steps,
        n_tokens=counts.n_tokens,
        n_used_hi=counts.n_pairs_hi,
        n_used_lo=counts.n_pairs_lo,
        n_skipped=counts.n_pairs_skipped,
        n_rerouted=counts.n_pairs_rerouted,
        dropped_mass=counts.dropped_mass_ppm / 1e6 / counts.n_scored_rows if counts.n_scored_rows else 0.0,
        resident_bytes_hi=loader.resident_bytes_hi,
        resident_bytes_lo=loader.resident_bytes_lo,
        expert_memory_bytes=engine.arena_bytes(),
        memory_bytes=memory_bytes,
        precision="mixed" if engine.has_lo else "exact",
    )
    if not engine.has_tier:
        return stats
    tier = engine.tier_stats()
    return replace(
        stats,
        n_device_hits=tier.n_hits_hi + tier.n_hits_lo,
        n_device_misses=tier.n_misses_hi + tier.n_misses_lo,
        n_promoted=tier.n_promoted,
        n_device_parts=tier.n_device_parts,
        n_ahead_parts=tier.n_ahead_parts,
        n_staged_parts=tier.n_staged_parts,
        n_host_parts=tier.n_host_parts,
        copied_bytes=tier.demand_bytes + tier.background_bytes,
        copy_us=tier.copy_us,
        copy_wait_us=tier.wait_us,
        host_compute_us=tier.host_us,
        host_rounds_as_device=engine.has_device_rounding,
        resident_bytes_device=tier.resident_bytes_hi + tier.resident_bytes_lo,
        device_expert_bytes=engine.device_expert_bytes,
    )
