"""Bandwidth of a drive at random direct reads of a given size: the ceiling for anything that loads experts on demand.

python scripts/drive.py model.gguf --read-size 1.6MB --threads 1,4
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from sizes import parse_numbers, parse_size

ALIGNMENT = 4096


class DriveError(Exception):
    """The drive cannot be measured; the message is one sentence for the user."""


def measure_random_reads(path: Path, read_bytes: int, n_threads: int, duration_s: float, seed: int = 0) -> float:
    """Bytes per second of `n_threads` threads that each read `read_bytes` at random offsets past the page cache.

    Sizes are rounded up and offsets down to 4096 bytes. `os.preadv` releases the interpreter's lock while it reads.
    """
    read_bytes = -(-read_bytes // ALIGNMENT) * ALIGNMENT
    n_places = (path.stat().st_size - read_bytes) // ALIGNMENT
    if n_places < 1:
        raise DriveError(f"{path} is too small for reads of {read_bytes} bytes: choose a larger file or smaller reads.")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        raise DriveError(f"{path} cannot be read directly ({error.strerror}): choose another file system.") from error
    stop_at = time.monotonic() + duration_s
    done_bytes = [0] * n_threads

    def read_until_stopped(thread_idx: int) -> None:
        places = random.Random(seed * 1000 + thread_idx)
        with mmap.mmap(-1, read_bytes) as buffer:  # page-aligned, as direct reads ask for
            while time.monotonic() < stop_at:
                done_bytes[thread_idx] += os.preadv(handle, [buffer], places.randrange(n_places) * ALIGNMENT)

    started = time.monotonic()
    threads = [threading.Thread(target=read_until_stopped, args=(idx,)) for idx in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.monotonic() - started
    os.close(handle)
    if 0 in done_bytes:
        raise DriveError(f"Reads of {path} failed or did not return within {duration_s:g} s.")
    return sum(done_bytes) / elapsed_s


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a large file on the drive")
    parser.add_argument("--read-size", type=parse_size, default=1 << 20, help="bytes per read, e.g. 1.6MB (1MiB)")
    parser.add_argument("--threads", type=parse_numbers, default=[1, 4], help="thread counts to measure (1,4)")
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each thread count (1.5)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        rates = {
            str(n_threads): measure_random_reads(
                options.path, options.read_size, n_threads, options.seconds, options.seed
            )
            for n_threads in options.threads
        }
    except DriveError as error:
        print(f"drive: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"drive: {options.path}: {error.strerror}.", file=sys.stderr)
        return 2
    print(json.dumps({"read_size_bytes": options.read_size, "bytes_s_by_threads": rates}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
