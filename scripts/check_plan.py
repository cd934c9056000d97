"""Compares what `hobbit plan` predicts with what `hobbit bench` measures, on one model, in one invocation.

    python scripts/check_plan.py wide.gguf --rounds 3 --out plan.jsonl

For budgets that hold a quarter, a half, three quarters and all of the experts: plan, a run in a process of its own, and
plan again; the prediction is the mean of the two, so that a machine that others use as well hurts both sides alike.
Exit code 1 if the median of a budget's ratios is off by more than --tolerance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hobbit_py import HobbitError
from hobbit_py.bench.decode import RunShape
from hobbit_py.bench.machine import n_usable_cores
from hobbit_py.bench.runs import Budget, Case, Setup, run_case
from hobbit_py.bundled import sample_text
from hobbit_py.planning import BudgetPlan, plan


def predict(model: Path, memory: Sequence[int] | None, n_threads: int) -> list[BudgetPlan]:
    return list(plan(model, memory=memory, n_ctx=1024, n_threads=n_threads).budgets)


def compare(options: argparse.Namespace) -> dict[int, list[float]]:
    """Measured over predicted tokens per second, by percent of the experts in memory."""
    shape = RunShape(n_prompt=options.prompt_tokens, n_decode=options.decode, max_decode_s=options.max_decode_s)
    setup = Setup(options.model, options.text, options.threads, shape)
    memory = [budget.memory_bytes for budget in predict(options.model, None, options.threads)]
    ratios: dict[int, list[float]] = defaultdict(list)
    for round_idx in range(options.rounds):
        for n_bytes in memory:
            (before,) = predict(options.model, [n_bytes], options.threads)
            run = run_case(setup, Case(Budget("", memory=n_bytes, resident=before.resident_share >= 1), "exact"))
            (after,) = predict(options.model, [n_bytes], options.threads)
            if run.measurement is None:
                raise HobbitError(run.failure)
            assert before.tok_s is not None
            assert after.tok_s is not None
            expected, found = (before.tok_s + after.tok_s) / 2, run.measurement.decode_tok_s
            percent = round(100 * before.resident_share)
            ratios[percent].append(found / expected)
            record = {
                "round": round_idx,
                "memory_bytes": n_bytes,
                "resident_percent": percent,
                "planned_tok_s": expected,
                "measured_tok_s": found,
                "planned_read_bytes": before.read_bytes_per_token,
                "measured_read_bytes": run.measurement.read_bytes_per_token,
                "planned_compute_s": [before.compute_s, after.compute_s],
                "planned_io_s": [before.io_s, after.io_s],
            }
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(record) + "\n")
            print(
                f"round {round_idx + 1}, {percent:3d}% of the experts: "
                f"planned {expected:.2f}, measured {found:.2f} tok/s, "
                f"planned {1e-6 * (before.read_bytes_per_token or 0):.0f}, measured "
                f"{1e-6 * (run.measurement.read_bytes_per_token or 0):.0f} MB a token",
                file=sys.stderr,
                flush=True,
            )
    return ratios


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--decode", type=int, default=48)
    parser.add_argument("--max-decode-s", type=float, default=30)
    parser.add_argument("--text", type=Path, default=sample_text())
    parser.add_argument("--threads", type=int, default=n_usable_cores())
    parser.add_argument("--tolerance", type=float, default=0.25, help="of measured over planned tok/s (0.25)")
    parser.add_argument("--out", type=Path, help="JSON lines")
    options = parser.parse_args(arguments)
    try:
        ratios = compare(options)
    except (HobbitError, OSError) as error:
        print(f"check_plan: {error}", file=sys.stderr)
        return 2
    worst = 0.0
    print("experts in memory  measured over planned tok/s, median (range)")
    for percent, values in sorted(ratios.items()):
        median = statistics.median(values)
        worst = max(worst, abs(median - 1))
        print(f"{percent:>16}%  {median:.2f} ({min(values):.2f}-{max(values):.2f})")
    return 1 if worst > options.tolerance else 0


if __name__ == "__main__":
    sys.exit(main())
