"""How fast exact mode could decode at best: a trace replayed against a clock, with a predictor that is always right.

    hobbit trace wide.gguf --text scripts/data/excerpt.txt --tokens 192 -o excerpt.npz
    python scripts/overlap_bound.py excerpt.npz --capacity 67 --skip 64 --token-ms 19 --layer-ms 0.3 --between-ms 1 \\
        --read-speed 2.3GB --busy-read-speed 1.84GB

The engine's own cache says which experts every token lacks. One drive reads them in the order in which they are wanted,
from when they are known; the cores compute what is there and wait for the rest, matrix by matrix. Nothing else takes
time, and nothing is read that is not wanted, so no engine can do better with the same cache and the same knowledge.
"Known" says how far ahead experts are known: in their own layer, by their router, or one or more layers before, up to
the end of the token or beyond it. The last line is what LRU would miss, and the time that takes to read.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sizes import parse_numbers, parse_size

from hobbit_py import HobbitError
from hobbit_py.policies import Preset
from hobbit_py.policies.presets import DEFAULT
from hobbit_py.simulate import load_trace
from hobbit_py.simulate.judge import replay_preset

EXACT = Preset("exact", eviction=DEFAULT.eviction, eviction_parameters=DEFAULT.eviction_parameters)
LRU = Preset("lru", eviction="lru")


@dataclass(frozen=True)
class Machine:
    """Bytes/s of the drive while cores wait and while they compute, and times in seconds.

    `token_s` is that of a token with everything in memory, `layer_s` what a layer takes of it before its router,
    `between_s` what comes between the last layer of a token and the first of the next. The rest is the experts'.
    """

    read_bytes_s: float
    busy_read_bytes_s: float
    token_s: float
    layer_s: float
    between_s: float

    def expert_s(self, n_layers: int, n_used: int) -> float:
        """Of one expert."""
        return (self.token_s - self.between_s - n_layers * self.layer_s) / (n_layers * n_used)


@dataclass(frozen=True)
class Bound:
    """Of a token, the mean: its time, the drive's idle time, and both parts of the roofline."""

    token_s: float
    idle_s: float
    read_s: float
    compute_s: float

    @property
    def over_roofline(self) -> float:
        """Token time over the larger of computing and reads."""
        return self.token_s / max(self.read_s, self.compute_s)


class Drive:
    """Reads what it was given, one matrix after another."""

    def __init__(self) -> None:
        self._left: list[tuple[int, float]] = []  # step and bytes that are left of a matrix, in reverse
        self._n_left: dict[int, int] = {}
        self.idle_s = 0.0

    def give(self, step: int, n_matrices: int, matrix_bytes: float) -> None:
        """Matrices of a later step than all before."""
        self._left[:0] = [(step, matrix_bytes)] * n_matrices
        self._n_left[step] = n_matrices

    def n_left(self, step: int) -> int:
        """Matrices of a step that are not there yet."""
        return self._n_left.get(step, 0)

    def run(self, seconds: float, bytes_s: float) -> None:
        """Goes on for a while."""
        while self._left and seconds > 0:
            step, n_bytes = self._left.pop()
            needed_s = n_bytes / bytes_s
            if needed_s > seconds:
                self._left.append((step, n_bytes - seconds * bytes_s))
                return
            seconds -= needed_s
            self._n_left[step] -= 1
        self.idle_s += seconds

    def run_to_next(self, bytes_s: float) -> float:
        """Goes on to the end of the matrix at hand; returns the time."""
        step, n_bytes = self._left.pop()
        self._n_left[step] -= 1
        return n_bytes / bytes_s


def bound(
    n_missing: npt.NDArray[np.int32],
    expert_bytes: float,
    n_used: int,
    machine: Machine,
    known_ahead: int,
    *,
    across_tokens: bool,
    n_parts: int,
) -> Bound:
    """Of experts that are missing, [n_tokens, n_layers], known so many layers ahead; each of `n_parts` matrices."""
    n_tokens, n_layers = n_missing.shape
    missing = (n_missing.ravel() * n_parts).tolist()
    n_wanted, matrix_bytes = n_used * n_parts, expert_bytes / n_parts
    matrix_s = machine.expert_s(n_layers, n_used) / n_parts
    drive, now_s, n_given = Drive(), 0.0, 0

    def compute(seconds: float) -> None:
        nonlocal now_s
        drive.run(seconds, machine.busy_read_bytes_s)
        now_s += seconds

    for step, n_absent in enumerate(missing):
        is_first = step % n_layers == 0
        compute(machine.layer_s + (machine.between_s if is_first else 0.0))
        token_end = (step // n_layers + 1) * n_layers
        end = min(step + known_ahead + 1, len(missing) if across_tokens else token_end)
        for known in range(n_given, end):
            drive.give(known, missing[known], matrix_bytes)
        n_given = max(n_given, end)
        n_done = n_wanted - n_absent
        compute(n_done * matrix_s)
        while n_done < n_wanted:
            n_there = n_wanted - drive.n_left(step)
            if n_there == n_done:
                now_s += drive.run_to_next(machine.read_bytes_s)
            else:
                n_done += 1
                compute(matrix_s)
    read_s = sum(missing) * matrix_bytes / machine.read_bytes_s / n_tokens
    return Bound(now_s / n_tokens, drive.idle_s / n_tokens, read_s, machine.token_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="of 'hobbit trace'")
    parser.add_argument("--capacity", type=parse_numbers, default=[67], help="percent of the expert bytes (67)")
    parser.add_argument("--skip", type=int, default=64, help="tokens that only fill the cache (64)")
    parser.add_argument("--token-ms", type=float, required=True, help="of a token with everything in memory")
    parser.add_argument("--layer-ms", type=float, required=True, help="of that, a layer up to its router")
    parser.add_argument("--between-ms", type=float, required=True, help="of that, between two tokens")
    parser.add_argument("--read-speed", type=parse_size, required=True, help="of the drive, bytes/s")
    parser.add_argument("--busy-read-speed", type=parse_size, help="beside computing (the same)")
    args = parser.parse_args()
    busy_bytes_s = args.busy_read_speed or args.read_speed
    machine = Machine(args.read_speed, busy_bytes_s, args.token_ms / 1e3, args.layer_ms / 1e3, args.between_ms / 1e3)
    try:
        trace = load_trace(args.trace)
        if machine.expert_s(len(trace.layers), trace.n_used) <= 0:
            parser.error("--layer-ms and --between-ms leave no time of --token-ms for the experts")
        if not 0 <= args.skip < trace.n_tokens:
            parser.error(f"--skip is {args.skip}, expected less than the {trace.n_tokens} tokens of {args.trace}")
        expert_bytes = float(np.median(trace.hi_part_bytes.sum(axis=1)))
        n_parts = int(np.count_nonzero(trace.hi_part_bytes, axis=1).max())
        print("capacity  known             token ms  reads ms  idle ms  token/max")
        for capacity in args.capacity:
            missing = replay_preset(trace, EXACT, capacity / 100).n_misses_hi[args.skip :]
            for name, ahead, across in (
                ("its own layer", 0, False),
                ("1 layer ahead", 1, False),
                ("2 layers ahead", 2, False),
                ("the token", len(trace.layers), False),
                ("2, across tokens", 2, True),
            ):
                b = bound(missing, expert_bytes, trace.n_used, machine, ahead, across_tokens=across, n_parts=n_parts)
                times = f"{b.token_s * 1e3:8.1f}  {b.read_s * 1e3:8.1f}  {b.idle_s * 1e3:7.1f}"
                print(f"{capacity:7}%  {name:16}  {times}  {b.over_roofline:9.2f}")
            lru = replay_preset(trace, LRU, capacity / 100).n_misses_hi[args.skip :]
            lru_bytes = float(lru.sum(axis=1).mean()) * expert_bytes
            lru_ms = lru_bytes / machine.read_bytes_s * 1e3
            print(f"{capacity:7}%  LRU: {lru_bytes / 1e6:.1f} MB a token, {lru_ms:.1f} ms")
    except (OSError, HobbitError) as error:
        print(f"overlap_bound: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
