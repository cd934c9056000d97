"""Bandwidth of a drive at random direct reads of a given size: the ceiling for anything that loads experts on demand.

    python scripts/drive.py model.gguf --read-size 1.6MB --threads 1,4 --busy 0,33

With --busy also beside cores that read memory for so many percent of the time, as those do that decode.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sizes import parse_numbers, parse_size

from hobbit_py.bench.drive import DriveError, measure_random_reads
from hobbit_py.bench.memory_load import memory_load


def parse_percents(text: str) -> list[int]:
    """Whole numbers from 0 to 100, separated by commas."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or max(numbers) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of percents such as 0,33")
    return numbers


def measure(options: argparse.Namespace, busy_percent: int) -> dict[str, float]:
    """Bytes/s by thread count."""
    with memory_load(len(os.sched_getaffinity(0)), busy_percent / 100):
        return {
            str(n_threads): measure_random_reads(
                options.path, options.read_size, n_threads, options.seconds, options.seed
            )
            for n_threads in options.threads
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a large file on the drive")
    parser.add_argument("--read-size", type=parse_size, default=1 << 20, help="bytes per read, e.g. 1.6MB (1MiB)")
    parser.add_argument("--threads", type=parse_numbers, default=[1, 4], help="thread counts to measure (1,4)")
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each thread count (1.5)")
    parser.add_argument("--busy", type=parse_percents, default=[0], help="percent of the time, e.g. 0,33,100 (0)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        rates = {str(percent): measure(options, percent) for percent in options.busy}
    except DriveError as error:
        print(f"drive: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"drive: {options.path}: {error.strerror}.", file=sys.stderr)
        return 2
    print(json.dumps({"read_size_bytes": options.read_size, "bytes_s_by_busy_percent": rates}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
