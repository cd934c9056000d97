"""Bandwidth of a drive at random direct reads of a given size: the ceiling for anything that loads experts on demand.

python scripts/drive.py model.gguf --read-size 1.6MB --threads 1,4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sizes import parse_numbers, parse_size

from hobbit_py.bench.drive import DriveError, measure_random_reads


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
