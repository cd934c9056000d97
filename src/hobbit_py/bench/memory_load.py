"""Cores that read memory, as decoding does: what a drive is measured beside.

Decoding reads every weight that a token needs once, so it is bound by the memory. So are a drive's transfers, and
where the drive is virtual the host copies what it reads.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_ARRAY_BYTES = 64 << 20  # beyond any cache
_PERIOD_S = 0.1  # about a token that waits for the drive


@contextmanager
def memory_load(n_threads: int, busy_share: float) -> Iterator[None]:
    """Reads memory in `n_threads` threads for `busy_share` (0 to 1) of the time, until the block ends.

    In a process of its own: threads that measure a drive meanwhile would wait for this interpreter's lock.
    Raises ValueError for another share and RuntimeError if that process ends early.
    """
    if not 0 <= busy_share <= 1:
        raise ValueError(f"busy_share is {busy_share}, expected 0 to 1")
    if busy_share == 0:
        yield
        return
    command = [sys.executable, "-m", __name__, str(n_threads), str(busy_share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        try:
            if not load.stdout.readline():
                raise RuntimeError("The process that reads memory ended before it began.")
            yield
        finally:
            load.stdin.close()  # which ends it


def _read_until_stdin_ends(n_threads: int, busy_share: float) -> None:
    stop = threading.Event()

    def read() -> None:
        array = np.ones(_ARRAY_BYTES // 8)
        started.wait()
        while not stop.is_set():
            rests_at = time.monotonic() + busy_share * _PERIOD_S
            while time.monotonic() < rests_at:
                array.sum()  # numpy releases the interpreter's lock meanwhile
            if busy_share < 1:
                stop.wait((1 - busy_share) * _PERIOD_S)

    started = threading.Barrier(n_threads + 1)
    threads = [threading.Thread(target=read) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    started.wait()
    print("started", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    _read_until_stdin_ends(int(sys.argv[1]), float(sys.argv[2]))
