"""What the expert store did since the model was loaded."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

_GAUGES: Final = frozenset(
    [
        "resident_bytes_hi",
        "resident_bytes_lo",
        "expert_memory_bytes",
        "memory_bytes",
        "precision",
        "dropped_mass",
        "resident_bytes_device",
        "host_rounds_as_device",
        "device_expert_bytes",
    ]
)


@dataclass(frozen=True)
class Stats:
    """Counters since the model was loaded, then gauges of this moment.

    A hit or a miss is one expert of one layer that a token, or a batch of them, selected. Streamed experts were read
    for a long prompt, passing the cache by, and are neither. Sizes are in bytes, times in microseconds.
    """

    n_hits_hi: int = 0
    n_hits_lo: int = 0
    n_misses_hi: int = 0
    n_misses_lo: int = 0
    n_used_hi: int = 0
    """In mixed mode, experts of tokens that were computed in hi; the next two in lo, and not at all."""
    n_used_lo: int = 0
    n_skipped: int = 0
    n_rerouted: int = 0
    """Experts of tokens that a router filter put in the place of others."""
    n_streamed: int = 0
    read_bytes_hi: int = 0
    read_bytes_lo: int = 0
    n_reads: int = 0
    n_retries: int = 0
    n_evictions: int = 0
    n_prefetched: int = 0
    """Copies read ahead on a guess. The next three: those of them that were wanted before they went, of which while
    they were still being read, and those that went without."""
    n_prefetch_used: int = 0
    n_prefetch_late: int = 0
    n_prefetch_wasted: int = 0
    prefetched_bytes: int = 0
    """Bytes of the copies read ahead. Once a copy is judged they are in one of the next four: complete when it was
    wanted, wanted while it was read, read for nothing, or not read any more since the guess was wrong."""
    prefetch_useful_bytes: int = 0
    prefetch_late_bytes: int = 0
    prefetch_wasted_bytes: int = 0
    prefetch_cancelled_bytes: int = 0
    n_upgraded: int = 0
    """Hi copies read while the drive was idle for experts that were served in lo."""
    wanted_bytes: int = 0
    """Bytes of the copies that were not complete when a token wanted them: what it waited for, or ran beside."""
    stall_us: int = 0
    n_layer_steps: int = 0
    n_tokens: int = 0
    """Tokens computed, those of prompts included."""

    n_device_hits: int = 0
    """With a GPU that has memory of its own: experts wanted by a layer that were in it, and that were not. Hits, misses
    and reads above are then about main memory, from which the missing ones come."""
    n_device_misses: int = 0
    n_promoted: int = 0
    """Experts that were given a slot in the GPU's memory."""
    n_device_parts: int = 0
    """Matrices of missing experts that were copied for one use; of those, begun before their layer asked for them, and
    to where a batch is multiplied by all experts at once; and those that the CPU multiplied by."""
    n_ahead_parts: int = 0
    n_staged_parts: int = 0
    n_host_parts: int = 0
    copied_bytes: int = 0
    """Copied to the GPU, and how long that took, and how long a token waited for it."""
    copy_us: int = 0
    copy_wait_us: int = 0
    host_compute_us: int = 0
    host_rounds_as_device: bool = False
    """Whether what the CPU multiplies for single tokens has the GPU's bits, whichever experts it is."""

    resident_bytes_device: int = 0
    device_expert_bytes: int = 0
    resident_bytes_hi: int = 0
    resident_bytes_lo: int = 0
    expert_memory_bytes: int = 0
    memory_bytes: int = 0
    """The budget of the whole process; 0 if none was set."""
    precision: str = "dense"
    """One of "exact", "mixed" and, for a model without experts, "dense"."""
    dropped_mass: float = 0.0
    """Router weight of skipped experts, over all router weight; 0.0 in exact mode."""

    @property
    def n_asked(self) -> int:
        """Selected experts that the cache was asked for; none where all of a layer's lie in memory for good."""
        return self.n_hits_hi + self.n_hits_lo + self.n_misses_hi + self.n_misses_lo + self.n_skipped

    @property
    def hit_rate(self) -> float:
        """Share of the selected experts that were resident; 1.0 when none was asked for."""
        return (self.n_hits_hi + self.n_hits_lo) / self.n_asked if self.n_asked else 1.0

    @property
    def measured_hit_rate(self) -> float | None:
        """`hit_rate` to be shown: None when none was asked for."""
        return self.hit_rate if self.n_asked else None

    @property
    def read_bytes(self) -> int:
        """Expert bytes read from the drive, both precisions."""
        return self.read_bytes_hi + self.read_bytes_lo

    def since(self, earlier: Stats) -> Stats:
        """Returns what was counted after `earlier`; gauges keep the value they have here."""
        return replace(
            self,
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in fields(self)
                if field.name not in _GAUGES
            },
        )


def format_share(share: float | None) -> str:
    """Writes a share in percent, "93.1%"; "-" where there is none."""
    return "-" if share is None else f"{share:.1%}"


def peak_rss_bytes() -> int:
    """Returns the largest resident set this process had, in bytes."""
    # Linux carries ru_maxrss over fork and exec, so a child of a large process would report its parent's peak.
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max_rss if sys.platform == "darwin" else max_rss * 1024
