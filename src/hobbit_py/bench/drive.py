"""Bandwidth of a drive at random direct reads of a given size: the ceiling of all that loads experts on demand."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import HobbitError
from ..huge_pages import arena_like
from ..memory import available_bytes

_ALIGNMENT = 4096

# What is read has to land in memory, as experts in their slots do. Into one buffer a thread, which the processor's
# caches hold, a virtual drive, whose host copies what it reads, gave 2.6 GB/s instead of 2.1.
_AREA_BYTES = 256 << 20
_O_DIRECT = getattr(os, "O_DIRECT", 0)  # macOS has none: there the page cache is part of what is measured


class DriveError(HobbitError):
    """The drive cannot be measured."""


def measure_random_reads(path: Path, read_bytes: int, n_threads: int, duration_s: float, seed: int = 0) -> float:
    """Bytes per second of `n_threads` threads that each read `read_bytes` at random offsets past the page cache.

    They read into 256 MiB in all, or a quarter of what memory is available, each read into a place at random.
    Sizes are rounded up and offsets down to 4096 bytes. `os.preadv` releases the interpreter's lock while it reads.
    Raises DriveError, or OSError if the file cannot be looked at.
    """
    read_bytes = -(-read_bytes // _ALIGNMENT) * _ALIGNMENT
    n_places = (path.stat().st_size - read_bytes) // _ALIGNMENT
    if n_places < 1:
        raise DriveError(f"{path} is too small for reads of {read_bytes} bytes: choose a larger file or smaller reads.")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _O_DIRECT)
    except OSError as error:
        raise DriveError(f"{path} cannot be read directly ({error.strerror}): choose another file system.") from error
    stop_at: list[float] = []
    done_bytes = [0] * n_threads

    n_buffers = max(1, min(_AREA_BYTES, available_bytes() // 4) // (n_threads * read_bytes))

    def read_until_stopped(thread_idx: int) -> None:
        places = random.Random(seed * 1000 + thread_idx)
        with arena_like(n_buffers * read_bytes) as area, memoryview(area) as bytes_of:
            barrier.wait()
            while time.monotonic() < stop_at[0]:
                first = places.randrange(n_buffers) * read_bytes
                with bytes_of[first : first + read_bytes] as target:
                    done_bytes[thread_idx] += os.preadv(handle, [target], places.randrange(n_places) * _ALIGNMENT)

    def start() -> None:
        stop_at.append(time.monotonic() + duration_s)

    barrier = threading.Barrier(n_threads, action=start)  # pages are committed before the clock runs
    threads = [threading.Thread(target=read_until_stopped, args=(idx,)) for idx in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.monotonic() - stop_at[0] + duration_s
    os.close(handle)
    if 0 in done_bytes:
        raise DriveError(f"Reads of {path} failed or did not return within {duration_s:g} s.")
    return sum(done_bytes) / elapsed_s


def best_random_reads(
    path: Path, read_bytes: int, n_threads: Sequence[int] = (1, 4), duration_s: float = 1.0, seed: int = 0
) -> float:
    """Bytes per second at the best of these thread counts; the runtime itself reads with four threads."""
    return max(measure_random_reads(path, read_bytes, n, duration_s, seed) for n in n_threads)
