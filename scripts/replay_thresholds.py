"""What thresholds of mixed precision read, and how much router weight they leave in lo, replayed on a trace.

    hobbit trace m.gguf --lo m.lo-Q3_K.gguf --text text.txt -o m.npz
    python scripts/replay_thresholds.py m.npz --arenas 25,50 --hi-above 0.2,0.3 --tilt 0,0.25 --times 24

Takes seconds where a run of the model takes minutes, and bytes agree with it to the third digit. "lo weight" is the sum
of squared router weights of a token's experts in a layer that ran in lo, the mean of the layers: the error that they
leave, and with it the KL divergence from exact mode, is about proportional to it for a given type of lo copies.
`hobbit tune` looks for thresholds and shares of the memory for lo copies in the same way. What a tilt is good for shows
with --layer-cost, from scripts/layer_cost.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

from sizes import parse_numbers

from hobbit_py import HobbitError
from hobbit_py.mixed import DEFAULT_TILT, default_lo_share
from hobbit_py.policies import EvictionPolicy, Preset, WeightThresholds
from hobbit_py.policies.eviction import NextUse
from hobbit_py.simulate import Trace, load_trace
from hobbit_py.simulate.predictions import guesses_of
from hobbit_py.simulate.replay import make_replay, run_replay
from hobbit_py.tune.frontier import replay_cost

NOTHING_AHEAD = Preset("replay", eviction="lru")


def enlarged(trace: Trace, times: int) -> Trace:
    return dataclasses.replace(
        trace, hi_part_bytes=trace.hi_part_bytes * times, lo_part_bytes=trace.lo_part_bytes * times
    )


def exact_bytes(trace: Trace, memory_bytes: int, eviction: EvictionPolicy) -> float:
    """Bytes a token that exact mode reads."""
    replay = make_replay(trace, memory_bytes, eviction)
    return float(run_replay(trace, replay, guesses_of(trace, NOTHING_AHEAD)).miss_bytes.sum() / trace.n_tokens)


def parse_weights(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="of 'hobbit trace' with a lo copy")
    parser.add_argument("--arenas", type=parse_numbers, default=[25, 50], help="percent of the expert bytes")
    parser.add_argument("--hi-above", type=parse_weights, default=[0.2, 0.3])
    parser.add_argument("--wait-above", type=parse_weights, default=[0.0])
    parser.add_argument("--tilt", type=parse_weights, default=[DEFAULT_TILT], help="see WeightThresholds.tilted")
    parser.add_argument("--layer-cost", type=parse_weights, help="of lo weight in each layer (1)")
    parser.add_argument("--mixed-follow-weight", type=float, default=NextUse.mixed_follow_weight, help="of next-use")
    parser.add_argument("--lo-share", type=parse_weights, help="of the memory (that of a model that was not tuned)")
    parser.add_argument("--times", type=int, default=1, help="as if experts were larger, e.g. where padding vanishes")
    args = parser.parse_args()
    try:
        trace = enlarged(load_trace(args.trace), args.times)
        if not trace.has_lo:
            parser.error(f"{args.trace} was recorded without a lo copy")
        if args.layer_cost and len(args.layer_cost) != len(trace.n_expert):
            parser.error(f"--layer-cost has {len(args.layer_cost)} layers, expected {len(trace.n_expert)}")
        eviction = NextUse(mixed_follow_weight=args.mixed_follow_weight)
        lo_ratio = float(trace.lo_part_bytes.sum() / trace.hi_part_bytes.sum())
        print("arena  lo share  hi above  tilt  wait above  waited for     all   fewer  in hi  lo weight")
        for arena in (percent / 100 for percent in args.arenas):
            memory_bytes = int(arena * float((trace.n_expert[:, None] * trace.hi_part_bytes).sum()))
            exact = exact_bytes(trace, memory_bytes, eviction)
            lo_shares = args.lo_share or [default_lo_share(trace.n_used, arena, lo_ratio)]
            settings = itertools.product(lo_shares, args.hi_above, args.tilt, args.wait_above)
            for lo_share, hi_above, tilt, wait_above in settings:
                thresholds = WeightThresholds.tilted(hi_above, tilt, len(trace.n_expert), wait_above=wait_above)
                cost = replay_cost(
                    trace, memory_bytes, thresholds, lo_share, eviction=eviction, layer_cost=args.layer_cost
                )
                print(
                    f"{arena:5.0%} {lo_share:8.2f} {hi_above:9.2f} {tilt:5.2f} {wait_above:11.2f} "
                    f"{cost.waited_bytes / exact:11.3f} {cost.read_bytes / exact:7.3f} "
                    f"{exact / cost.read_bytes:6.2f}x {cost.hi_share:6.3f} {cost.lo_weight:10.5f}",
                    flush=True,
                )
    except (HobbitError, OSError) as error:
        print(f"replay_thresholds: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
