"""The memory budget: what the machine has, what a model needs at least, what is left for experts.

A budget covers the whole process: dense weights, KV cache, compute buffers, IO buffers, and the slots of the expert
cache, which get what the others leave.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import MemoryBudgetError, UsageError
from .sizes import format_bytes, parse_bytes

_MIB = 1 << 20

_PROC = Path("/proc")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_V1_UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number beyond this

# `auto` leaves this much of what is free to the rest of the system: a share, and at least this many bytes, but on a
# machine with little memory not more than a quarter.
_AUTO_HEADROOM_SHARE = 0.1
_AUTO_HEADROOM_BYTES = 512 * _MIB
_AUTO_MAX_HEADROOM_SHARE = 0.25

# The resident set before loading differs from run to run, by what was paged in so far. The smallest budget that an
# error names has this much more, so that it works when it is given.
_FLOOR_SLACK_BYTES = 8 * _MIB

# For what is allocated while tokens are computed and cannot be known before: sampler, Python objects, thread stacks,
# the workspace of matmuls. Measured on the models of the tests: 10 to 25 MiB.
_MARGIN_SHARE = 0.01
_MARGIN_BYTES = 32 * _MIB


# For the buffers through which experts without a slot pass, without a GPU of its own memory: 14 matrices of 1.7 MB, of
# which four are being read. 64 MiB made no prompt faster (docs/performance.md), and were missing in the cache.
MAX_STREAM_BYTES = 24 * _MIB


@dataclass(frozen=True)
class MemoryNeeds:
    """What a model needs besides the slots of its experts, in bytes."""

    process_bytes: int
    """Resident before the weights are loaded: the interpreter, libraries, the vocabulary."""
    dense_bytes: int
    context_bytes: int
    compute_bytes: int
    output_bytes: int
    io_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything, with the margin."""
        known = (
            self.process_bytes
            + self.dense_bytes
            + self.context_bytes
            + self.compute_bytes
            + self.output_bytes
            + self.io_bytes
        )
        return known + max(_MARGIN_BYTES, int(known * _MARGIN_SHARE))


def parse_budget(memory: int | str) -> int | None:
    """Turns the `memory` argument into bytes; None for "auto". Raises UsageError."""
    if memory == "auto":
        return None
    n_bytes = parse_bytes(memory)
    total = total_memory_bytes()
    if total is not None and n_bytes > total:
        raise UsageError(
            f"a memory budget of {format_bytes(n_bytes)} is more than the {format_bytes(total)} that this machine has; "
            "give less, or 'auto'."
        )
    return n_bytes


def check_budget(budget_bytes: int, needs: MemoryNeeds, token_slot_bytes: int, *, is_auto: bool = False) -> None:
    """Raises MemoryBudgetError if the budget is below the floor: all needs, and the slots of one token's experts."""
    if budget_bytes >= needs.total_bytes + token_slot_bytes:
        return
    named_bytes = floor_bytes(needs, token_slot_bytes)
    found = "the free memory, which allows a budget of" if is_auto else "a memory budget of"
    raise MemoryBudgetError(
        f"{found} {format_bytes(budget_bytes)}{',' if is_auto else ''} is too small for this model, whose dense "
        f"weights, context and buffers need more: the smallest that works is {named_bytes // _MIB}MiB; a shorter "
        "context needs less.",
        named_bytes,
    )


def floor_bytes(needs: MemoryNeeds, token_slot_bytes: int) -> int:
    """The smallest budget to name to a user: whole MiB, with some slack so that it works when it is given."""
    return -(-(needs.total_bytes + token_slot_bytes + _FLOOR_SLACK_BYTES) // _MIB) * _MIB


def auto_budget() -> int:
    """What this process may use in all, by what the system and its cgroup have free, less some headroom."""
    free = available_bytes()
    headroom = min(_AUTO_HEADROOM_BYTES, int(free * _AUTO_MAX_HEADROOM_SHARE))
    headroom = max(headroom, int(free * _AUTO_HEADROOM_SHARE))
    return resident_bytes() + free - headroom


def resident_bytes() -> int:
    """Resident set of this process."""
    try:
        n_pages = int((_PROC / "self/statm").read_text(encoding="ascii").split()[1])
        return n_pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the peak: what comes nearest to it elsewhere
        return max_rss if sys.platform == "darwin" else max_rss * 1024


def total_memory_bytes() -> int | None:
    """Memory of the machine, or of the cgroup this process is in if that is less; None where neither is known."""
    limits = [limit for limit, _used in _cgroup_limits()]
    with contextlib.suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def available_bytes() -> int:
    """Memory that can be taken without swapping: the system's, or what the cgroup leaves if that is less."""
    candidates = [limit - used for limit, used in _cgroup_limits()]
    meminfo = _read_table(_PROC / "meminfo")
    if "MemAvailable" in meminfo:
        candidates.append(meminfo["MemAvailable"] * 1024)
    elif not candidates:
        candidates.append((total_memory_bytes() or 0) // 2)
    return max(0, min(candidates))


def _cgroup_limits() -> list[tuple[int, int]]:
    """(limit, bytes in use that cannot be reclaimed) of this process's memory cgroups that have a limit."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        limit_names: tuple[str, ...]
        if controllers == "":
            # memory.high does not kill, but a process above it is slowed down until it hardly moves.
            root, limit_names, used_name = _CGROUP_ROOT, ("memory.max", "memory.high"), "memory.current"
        elif "memory" in controllers.split(","):
            root, limit_names, used_name = _CGROUP_ROOT / "memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes"
        else:
            continue
        # The limits of parents bind as well. Inside a container the path is often not visible; the root's files are
        # then the container's own.
        folder = root / path.lstrip("/")
        levels = [level for level in (folder, *folder.parents) if level.is_relative_to(root)]
        for level in levels:
            limits = [limit for name in limit_names if (limit := _read_limit(level / name)) is not None]
            if limits and (used := _read_used(level, used_name)) is not None:
                found.append((min(limits), used))
    return found


def _read_limit(path: Path) -> int | None:
    """None: no such file, or no limit."""
    try:
        limit = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max"
        return None
    return limit if limit < _CGROUP_V1_UNLIMITED else None


def _read_used(folder: Path, used_name: str) -> int | None:
    try:
        used_bytes = int((folder / used_name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    stat = _read_table(folder / "memory.stat")
    # Version 1 has the figures of the cgroup alone beside those that include its children, as used_bytes does.
    reclaimable = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    reclaimable += stat.get("total_active_file", stat.get("active_file", 0))
    return max(0, used_bytes - reclaimable)


def _read_table(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    rows = (line.replace(":", " ").split() for line in lines)
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdigit()}
