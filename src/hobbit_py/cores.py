"""How many cores there are for this process, and what its threads do with them."""

from __future__ import annotations

import os

_MANY_CORES = 4


def n_usable_cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def n_spare_cores() -> int:
    """Cores that compute leaves to the threads that read, while tokens wait for those, and to those that copy to a GPU.

    ggml's threads meet after every operation, so one that shares its core with a thread that reads holds up all others.
    From four cores on the reads get one of them, from sixteen on one of eight (docs/performance.md, "Cores").
    """
    n_cores = n_usable_cores()
    return max(1, n_cores // 8) if n_cores >= _MANY_CORES else 0


def n_compute_threads(*, beside_copies: bool) -> int:
    """Threads that compute where nobody says how many; some cores are left to copies to a GPU, and its own threads."""
    return n_usable_cores() - (n_spare_cores() if beside_copies else 0)


def openmp_spin_count() -> int:
    """How often OpenMP's idle threads look whether there is work before they sleep (GOMP_SPINCOUNT).

    Where few cores are shared with reads, spinning takes the time that those need. The kernel also leaves both compute
    threads on one of two cores now and then, and the longer the one spins the longer the other waits for its turn: with
    10,000 a layer of 1 ms took 12 to 15 ms about once a token. Where there are more cores, waking up takes longer than
    most of what there is to compute between two reads (docs/performance.md, "Cores").
    """
    return 100_000 if n_usable_cores() >= _MANY_CORES else 1_000
