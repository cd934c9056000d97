"""Decoding speed against the size of the model: at a constant share of its experts in memory, and at a constant budget.

    python scripts/bench_sizes.py w2.gguf w4.gguf w8.gguf w16.gguf --share 25 --budget 1GiB --plot docs/sizes.png

What a token costs should grow with the bytes that it misses, not with the model. The models are one trained model,
widened (widen_gguf.py), so that all route alike. Exact mode; cases alternate within a round, each in a process of its
own (bench_child.py). The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_pressure import BenchError, last_line, read_sizes
from sizes import parse_size

SCRIPTS = Path(__file__).parent


@dataclass(frozen=True)
class Point:
    """A model at a budget for its experts; medians over the rounds."""

    model: Path
    series: str
    file_bytes: int
    expert_bytes: int  # all experts
    expert_memory_bytes: int
    runs: list[dict[str, Any]]

    def median(self, field: str) -> float:
        return statistics.median(run[field] for run in self.runs)

    @property
    def missed_bytes(self) -> float:
        return self.median("read_bytes_per_token")


def plan(options: argparse.Namespace) -> list[Point]:
    points = []
    for model in options.models:
        sizes = read_sizes(model)
        budgets = {
            f"{options.share}% of the experts": sizes.expert_bytes * options.share // 100,
            f"{options.budget / 2**30:g} GiB": options.budget,
        }
        for series, budget in budgets.items():
            points.append(Point(model, series, sizes.file_bytes, sizes.expert_bytes, budget, []))
    return points


def run(point: Point, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / "bench_child.py"), "hobbit", str(point.model)]
    command += ["--prompt-file", str(options.prompt_file), "--decode", str(options.decode)]
    command += ["--expert-memory", str(point.expert_memory_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(last_line(done.stderr, "bench_child: "))
    result: dict[str, Any] = json.loads(last_line(done.stdout))
    return result


def format_points(points: Sequence[Point]) -> str:
    titles = f"{'model GB':>8}  {'memory for experts':20}  {'ready s':>7}  {'tok/s':>20}"
    lines = [titles + f"  {'MB/token':>8}  {'ms/token':>8}  MB/s"]
    for point in sorted(points, key=lambda p: (p.series, p.file_bytes)):
        speeds = [run["decode_tok_s"] for run in point.runs]
        tok_s = statistics.median(speeds)
        spread = f"{tok_s:.2f} ({min(speeds):.2f}-{max(speeds):.2f})"
        lines.append(
            f"{point.file_bytes / 1e9:8.1f}  {point.series:20}  {point.median('load_s'):7.2f}  {spread:>20}  "
            f"{point.missed_bytes / 1e6:8.1f}  {1e3 / tok_s:8.1f}  {point.missed_bytes * tok_s / 1e6:.0f}"
        )
    return "\n".join(lines)


def plot(points: Sequence[Point], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure, (speed, cost) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for series in dict.fromkeys(point.series for point in points):
        group = sorted((p for p in points if p.series == series), key=lambda p: p.file_bytes)
        speed.plot([p.file_bytes / 1e9 for p in group], [p.median("decode_tok_s") for p in group], "o-", label=series)
        missed = [p.missed_bytes / 1e6 for p in group]
        cost.plot(missed, [1e3 / p.median("decode_tok_s") for p in group], "o", label=series)
    speed.set(xscale="log", yscale="log", xlabel="model, GB", ylabel="decode, tok/s")
    cost.set(xlabel="read for a token, MB", ylabel="ms a token", xlim=(0, None), ylim=(0, None))
    for axis in (speed.xaxis, speed.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(LogLocator(subs=()))
    for axes in (speed, cost):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--share", type=int, default=25, help="percent of the experts in memory (25)")
    parser.add_argument(
        "--budget", type=parse_size, default=1 << 30, help="memory for experts, whatever the model (1GiB)"
    )
    parser.add_argument("--prompt-file", type=Path, default=SCRIPTS / "data" / "excerpt.txt")
    parser.add_argument("--decode", type=int, default=64, help="tokens to decode (64)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (3)")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    options = parser.parse_args(arguments)
    try:
        points = plan(options)
        for round_idx in range(options.repeat):
            for point in points:
                point.runs.append(run(point, options))
                tok_s = point.runs[-1]["decode_tok_s"]
                print(f"round {round_idx + 1}: {point.model.name}, {point.series}: {tok_s:.2f} tok/s", file=sys.stderr)
    except BenchError as error:
        print(f"bench_sizes: {error}", file=sys.stderr)
        return 2
    print(format_points(points))
    if options.plot:
        plot(points, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
