"""The memory budget: what the machine has, what a model needs at least, what is left for experts.

A budget covers the whole process: dense weights, KV cache, compute buffers, IO buffers, and the slots of the expert
cache, which get what the others leave.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import MemoryBudgetError, UsageError
from .sizes import format_bytes, parse_bytes

_MIB = 1 << 20

# `auto` leaves this much of what is free to the rest of the system: a share, and at least this many bytes.
_AUTO_HEADROOM_SHARE = 0.1
_AUTO_HEADROOM_BYTES = 512 * _MIB

# For what is allocated while tokens are computed and cannot be known before: sampler, Python objects, thread stacks, the
# workspace of matmuls. Measured on the models of the tests: 10 to 25 MiB.
_MARGIN_SHARE = 0.01
_MARGIN_BYTES = 32 * _MIB


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


def plan_expert_memory(budget_bytes: int, needs: MemoryNeeds, token_slot_bytes: int) -> int:
    """Bytes for the slots of experts. Raises MemoryBudgetError if the budget is below the floor."""
    floor_bytes = needs.total_bytes + token_slot_bytes
    if budget_bytes < floor_bytes:
        named_bytes = -(-floor_bytes // _MIB) * _MIB
        raise MemoryBudgetError(
            f"a memory budget of {format_bytes(budget_bytes)} is too small for this model, whose dense weights, context "
            f"and buffers need more: the smallest that works is {named_bytes // _MIB}MiB.",
            named_bytes,
        )
    return budget_bytes - needs.total_bytes


def auto_budget() -> int:
    """What this process may use in all, by what the system and its cgroup have free, less some headroom."""
    free = available_bytes()
    headroom = max(_AUTO_HEADROOM_BYTES, int(free * _AUTO_HEADROOM_SHARE))
    return resident_bytes() + max(0, free - headroom)


def resident_bytes() -> int:
    """Resident set of this process."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, the peak


def total_memory_bytes() -> int | None:
    """Memory of the machine, or of the cgroup this process is in if that is less."""
    limits = [limit for limit, _used in _cgroup_limits()]
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        pass
    return min(limits) if limits else None


def available_bytes() -> int:
    """Memory that can be taken without swapping: the system's, or what the cgroup leaves if that is less."""
    candidates = [limit - used for limit, used in _cgroup_limits()]
    meminfo = _read_table(Path("/proc/meminfo"))
    if "MemAvailable" in meminfo:
        candidates.append(meminfo["MemAvailable"] * 1024)
    elif not candidates:
        candidates.append((total_memory_bytes() or 0) // 2)
    return max(0, min(candidates))


def _cgroup_limits() -> list[tuple[int, int]]:
    """(limit, bytes in use that cannot be reclaimed) of this process's memory cgroups that have a limit."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / path.lstrip("/")
        # Limits of parents bind as well; inside a container the path is often not visible and the root's files are ours.
        for level in [folder, *folder.parents]:
            if root not in (level, *level.parents):
                break
            limit = _read_limit(level, *names)
            if limit is not None:
                found.append(limit)
    return found


def _read_limit(folder: Path, limit_name: str, used_name: str) -> tuple[int, int] | None:
    try:
        limit_text = (folder / limit_name).read_text(encoding="ascii").strip()
        used_bytes = int((folder / used_name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    if limit_text == "max" or int(limit_text) >= 1 << 60:  # v1 writes "no limit" as a huge number
        return None
    stat = _read_table(folder / "memory.stat")
    reclaimable = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    reclaimable += stat.get("total_active_file", stat.get("active_file", 0))
    return int(limit_text), max(0, used_bytes - reclaimable)


def _read_table(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    rows = (line.replace(":", " ").split() for line in lines)
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdigit()}
