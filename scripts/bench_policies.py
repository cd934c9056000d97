"""What eviction policies cost: their time in a replay of real routing, over the time of a token that misses nothing.

    python scripts/bench_policies.py mini-qwen3moe-Q8_0.gguf --tokens 512
    python scripts/bench_policies.py wide.gguf --eviction next-use,lru --threads 2

First the model evaluates a text token by token with room for all experts, and its routing is recorded; the median of
these tokens' times is the shortest that a token can take, so the policy's share of it is the largest. Then the routing
is replayed through the engine's own cache, over a reader that reads nothing, at each of --capacities: per token, the
CPU time of everything there (looking up, telling the policy, choosing victims, giving out slots), and in brackets what
that is over the same with `lru`. Python policies are the twins of the native ones, called back once a layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hobbit_py
from hobbit_py.policies import EvictionPolicy, Preset, eviction_policy
from hobbit_py.policies.eviction import BUILT_INS
from hobbit_py.simulate import Trace
from hobbit_py.simulate.judge import replay_preset
from hobbit_py.simulate.record import Recording

SCRIPTS = Path(__file__).parent
CHEAPEST = "lru"


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU a token, the least of all repetitions."""

    policy: str
    is_python: bool
    capacity: float
    us_per_token: float
    share: float
    """Of the time of a token that misses nothing."""
    above_lru: float
    """The same of what it takes more than LRU."""


def record(options: argparse.Namespace) -> tuple[Trace, list[float]]:
    """The routing of the text, and each token's seconds, with all experts in memory."""
    from hobbit_py.evaluate import windows_of

    llama = hobbit_py.Llama(
        options.model,
        precision="exact",
        expert_memory=1 << 40,
        prefetch=False,
        n_ctx=options.window,
        n_threads=options.threads,
    )
    try:
        windows = windows_of(llama, options.text.read_bytes(), options.window, max_tokens=options.tokens)
        for window in windows.inputs:  # bring everything into memory
            llama.reset()
            llama.eval(list(window))
        seconds = []
        before = llama.stats()
        with Recording(llama) as recording:
            for window in windows.inputs:
                llama.reset()
                for token in window:
                    started = time.perf_counter()
                    llama.eval([token])
                    seconds.append(time.perf_counter() - started)
        n_misses = llama.stats().since(before).n_misses_hi
        print(f"{len(seconds)} tokens, {n_misses} misses while they were timed", file=sys.stderr)
        return recording.trace(windows), seconds
    finally:
        llama.close()


def in_python(name: str) -> EvictionPolicy:
    """The twin of a built-in as a class of somebody else's: it is called back."""
    twin = BUILT_INS[name]
    policy: EvictionPolicy = type(f"Own{twin.__name__}", (twin,), {})()
    return policy


def cpu_us(trace: Trace, policy: EvictionPolicy, capacity: float) -> float:
    """Of a replay, a token."""
    started = time.thread_time()
    replay_preset(trace, Preset("policy", eviction=CHEAPEST), capacity, eviction=policy)
    return (time.thread_time() - started) / trace.n_tokens * 1e6


def measure(trace: Trace, token_us: float, options: argparse.Namespace) -> list[Cost]:
    cases = [(name, False) for name in options.eviction] + [(name, True) for name in options.python]
    costs = []
    for capacity in options.capacities:
        best: dict[tuple[str, bool], float] = {}
        for _ in range(options.repeat):  # alternating, so that a busy machine hurts all alike
            for name, is_python in [(CHEAPEST, False), *cases]:
                us = cpu_us(trace, in_python(name) if is_python else eviction_policy(name), capacity)
                best[name, is_python] = min(us, best.get((name, is_python), us))
        least = best[CHEAPEST, False]
        costs += [
            Cost(name, is_python, capacity, us, us / token_us, (us - least) / token_us)
            for (name, is_python), us in best.items()
        ]
    return costs


def table(costs: Sequence[Cost], capacities: Sequence[float]) -> list[str]:
    lines = ["| policy | " + " | ".join(f"{c:.0%}: us a token, share (above LRU)" for c in capacities) + " |"]
    lines.append("|" + "---|" * (1 + len(capacities)))
    for key in dict.fromkeys((c.policy, c.is_python) for c in costs):
        cells = [
            f"{c.us_per_token:.0f}, {c.share:.2%} ({c.above_lru:+.2%})" for c in costs if (c.policy, c.is_python) == key
        ]
        lines.append(f"| `{key[0]}`{' in Python' if key[1] else ''} | {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, default=SCRIPTS / "data" / "excerpt.txt")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--window", type=int, default=256, help="tokens of a sequence (256)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--eviction", default=",".join(BUILT_INS), help="native policies (all)")
    parser.add_argument("--python", default="lru,next-use", help="twins in Python (lru,next-use)")
    parser.add_argument("--capacities", default="12,25,50", help="percent of the experts that have room (12,25,50)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, help="for JSON lines")
    options = parser.parse_args(arguments)
    options.eviction, options.python = options.eviction.split(","), options.python.split(",")
    options.capacities = [float(text) / 100 for text in options.capacities.split(",")]
    try:
        trace, seconds = record(options)
        token_us = statistics.median(seconds) * 1e6
        costs = measure(trace, token_us, options)
        if options.out is not None:
            rows = [{"token_us": token_us, **asdict(cost)} for cost in costs]
            options.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except (OSError, ValueError, hobbit_py.HobbitError) as error:
        print(f"bench_policies: {error}", file=sys.stderr)
        return 2
    fastest = min(seconds) * 1e3
    print(f"a token with all experts in memory: median {token_us / 1e3:.2f} ms, least {fastest:.2f} ms\n")
    print("\n".join(table(costs, options.capacities)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
