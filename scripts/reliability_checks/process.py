"""What a process holds at this moment, and whether that stays as it is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hobbit_py.memory import resident_bytes

MIB = 1 << 20


@dataclass(frozen=True)
class Holdings:
    rss_bytes: int
    n_files: int
    n_threads: int

    @classmethod
    def now(cls) -> Holdings:
        n_files, n_threads = (sum(1 for _ in Path(f"/proc/self/{name}").iterdir()) for name in ("fd", "task"))
        return cls(resident_bytes(), n_files, n_threads)

    def __str__(self) -> str:
        return f"{self.rss_bytes / MIB:.1f} MiB, {self.n_files} files, {self.n_threads} threads"


def growth(held: Sequence[Holdings], max_bytes: int) -> list[str]:
    """What grew between the second and the last quarter: sentences, none if all is flat."""
    quarter = len(held) // 4
    early, late = held[quarter : 2 * quarter], held[-quarter:]
    grown = [
        f"{name} grew from {before} to {after}"
        for name, before, after in (
            ("open files", max(h.n_files for h in early), max(h.n_files for h in late)),
            ("threads", max(h.n_threads for h in early), max(h.n_threads for h in late)),
        )
        if after > before
    ]
    before, after = (statistics.median(h.rss_bytes for h in part) for part in (early, late))
    if after - before > max_bytes:
        grown.append(f"memory grew from {before / MIB:.1f} to {after / MIB:.1f} MiB")
    return grown
