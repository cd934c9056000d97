"""Decode and prompt speed under memory pressure: hobbit_py against stock llama-cpp-python, in one invocation.

    sudo python scripts/bench_pressure.py --model wide.gguf --widen small.gguf --embd 8 --ff 3 --out pressure.jsonl
    sudo python scripts/bench_pressure.py --model wide.gguf --lo wide.lo-Q3_K.gguf --boxes 75,50,25 --arena 25 \\
        --check --min-ratio-mmap 5 --min-resident-ratio 0.95

Every figure comes from a child process (bench_child.py) that starts with a cold page cache; the cases alternate within
a round, so a drive or machine that drifts hurts all alike. In a box hobbit is granted 97% of the limit: the budget is
tested as a promise, and a kill by the kernel is reported as a failure. The drive is measured between all runs, by
direct random reads of the size of one expert matrix, and once a round beside cores that read memory. Needs root, for
the boxes and the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import gguf
from bench_table import DRIVE, SPEED, Case, Run, Thresholds, check, format_table, summarise
from memory_box import BoxError, run_in_box
from sizes import parse_numbers
from widen_gguf import WidenError, widen

WARM_TOKENS = 2048  # before a run with everything in RAM: enough to have touched nearly every expert
SCRIPTS = Path(__file__).parent
ALL_RESIDENT_SHARE = 1.05  # of the expert bytes: alignment makes a slot somewhat larger than its expert
BUSY_PERCENT = 33  # of the time in which cores compute where a token waits for the drive
GRANTED_SHARE = 0.97  # of a box, to hobbit; the rest is for what no process can account for (page tables, sockets)

MIXED_SETTINGS = (  # options of bench_child.py
    *("hi_above", "fall", "wait_above", "skip_below", "lo_share"),
    *("reroute", "reroute_below", "reroute_fall"),
)


class BenchError(Exception):
    """The benchmark cannot run; the message is one sentence for the user."""


@dataclass(frozen=True)
class ModelSizes:
    file_bytes: int
    expert_bytes: int  # all experts
    matrix_bytes: int  # one matrix of one expert, the median: what a demand load reads
    active_bytes: int  # experts that one token touches


def read_sizes(path: Path) -> ModelSizes:
    try:
        reader = gguf.GGUFReader(path)
        arch = str(reader.fields["general.architecture"].contents())
        n_used = int(reader.fields[f"{arch}.expert_used_count"].contents())
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BenchError(f"Cannot read {path} as the GGUF of a Mixture-of-Experts model: {error}.") from error
    experts = [(int(t.n_bytes), int(t.shape[-1])) for t in reader.tensors if "_exps." in t.name and len(t.shape) == 3]
    if not experts:
        raise BenchError(f"{path} has no expert tensors: the benchmark needs a Mixture-of-Experts model.")
    return ModelSizes(
        path.stat().st_size,
        sum(n_bytes for n_bytes, _ in experts),
        int(statistics.median(n_bytes // n_expert for n_bytes, n_expert in experts)),
        sum(n_bytes // n_expert * n_used for n_bytes, n_expert in experts),
    )


def plan_cases(options: argparse.Namespace) -> list[Case]:
    stock, hobbit = "stock" in options.engines, "hobbit" in options.engines
    precisions = ["exact", "mixed"] if options.lo else ["exact"]
    cases = []
    if stock:
        cases.append(Case("stock"))
    if hobbit:
        cases.append(Case("hobbit", arena_percent=100))
    for percent in options.boxes:
        if stock:
            cases.append(Case("stock", mmap=True, box_percent=percent))
        if hobbit:
            cases += [Case("hobbit", precision, box_percent=percent) for precision in precisions]
    if hobbit:
        cases += [Case("hobbit", p, arena_percent=percent) for percent in options.arena for p in precisions]
    return cases


def machine_fields(options: argparse.Namespace, sizes: ModelSizes, env: Mapping[str, str]) -> dict[str, Any]:
    """What the runs have in common: where they run, and the model."""
    return {
        "machine": platform.platform(),
        "n_cores": len(os.sched_getaffinity(0)),  # fewer than the machine has under taskset
        "threads": options.threads,
        "gomp_spincount": env.get("GOMP_SPINCOUNT"),
        "model": options.model.name,
        **asdict(sizes),
    }


class Bench:
    """Runs children one after another and writes what they report, a JSON object a line, as it comes."""

    def __init__(self, options: argparse.Namespace, sizes: ModelSizes, out: TextIO | None) -> None:
        self._options = options
        self._sizes = sizes
        self._out = out
        self.env = dict(os.environ)
        self.read_bytes_s = None if options.read_mb_s is None else int(options.read_mb_s * 1e6)
        self.runs: list[Run] = []
        self.drive_bytes_s: list[float] = []
        self.busy_drive_bytes_s: list[float] = []

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        if self._out is not None:
            self._out.write(json.dumps({"kind": kind, **fields}) + "\n")
            self._out.flush()

    def measure_drive(self, busy_percent: int = 0) -> float:
        """Bytes/s of the best thread count, under the same throttle as the runs."""
        size = self._sizes.matrix_bytes
        command = [sys.executable, str(SCRIPTS / "drive.py"), str(self._options.model), "--read-size", str(size)]
        command += ["--busy", str(busy_percent)]
        done = run_in_box(command, None, read_bytes_s=self.read_bytes_s, drive_of=self._options.model, env=self.env)
        if done.returncode != 0:
            raise BenchError(last_line(done.stderr))
        report = json.loads(done.stdout)
        self.write("drive", {**report, "load_average": os.getloadavg()[0]})
        bytes_s = float(max(report["bytes_s_by_busy_percent"][str(busy_percent)].values()))
        (self.busy_drive_bytes_s if busy_percent else self.drive_bytes_s).append(bytes_s)
        return bytes_s

    def run(self, case: Case, n_prompt: int, round_idx: int) -> Run:
        options = self._options
        box_bytes = None if case.box_percent is None else self._sizes.file_bytes * case.box_percent // 100
        before_bytes_s = self.drive_bytes_s[-1]
        done = run_in_box(
            self.child_command(case, n_prompt, box_bytes),
            box_bytes,
            read_bytes_s=self.read_bytes_s,
            drive_of=options.model,
            env=self.env,
        )
        failure, result = "", {}
        if done.oom_killed:
            failure = "killed by the kernel: it outgrew its box"
        elif done.returncode != 0:
            failure = last_line(done.stderr, "bench_child: ") or f"ended with exit code {done.returncode}"
        else:
            result = json.loads(last_line(done.stdout))
        peak = done.peak_bytes if box_bytes else None
        drive_bytes_s = (before_bytes_s + self.measure_drive()) / 2
        run = Run(case, n_prompt, round_idx, result, drive_bytes_s, peak, failure)
        self.runs.append(run)
        self.write("run", {**asdict(run), "name": case.name})
        return run

    def child_command(self, case: Case, n_prompt: int, box_bytes: int | None) -> list[str]:
        options = self._options
        command = [sys.executable, str(SCRIPTS / "bench_child.py"), case.engine, str(options.model)]
        command += ["--prompt-file", str(options.prompt_file), "--prompt-tokens", str(n_prompt)]
        command += ["--decode", str(options.decode), "--max-decode-s", str(options.max_decode_s)]
        if options.threads is not None:
            command += ["--threads", str(options.threads)]
        if case.mmap:
            command.append("--mmap")
        if case.resident or (case.engine == "stock" and not case.mmap):
            command += ["--warm", str(WARM_TOKENS)]
        if case.engine == "hobbit":
            command += ["--precision", case.precision]
            if case.precision == "mixed":
                command += ["--lo", str(options.lo)]
                command += ["--hi", str(options.hi)] if options.hi is not None else []
                for name in MIXED_SETTINGS:
                    if getattr(options, name) is not None:
                        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
            if box_bytes is not None:
                command += ["--memory", str(int(box_bytes * GRANTED_SHARE))]
            if case.arena_percent is not None:
                share = ALL_RESIDENT_SHARE if case.resident else case.arena_percent / 100
                command += ["--expert-memory", str(int(self._sizes.expert_bytes * share))]
        return command


def last_line(text: str, prefix: str = "") -> str:
    """The last line, or the last that starts with `prefix` if there is one: destructors may print behind an error."""
    lines = text.strip().splitlines()
    marked = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    return (marked or lines or [""])[-1]


def show_mb_s(bytes_s: Sequence[float]) -> str:
    return f"{statistics.median(bytes_s) / 1e6:.0f} MB/s ({min(bytes_s) / 1e6:.0f}-{max(bytes_s) / 1e6:.0f})"


def report(bench: Bench, limits: Thresholds) -> list[str]:
    """Print the tables and return what `--check` complains about."""
    if not bench.drive_bytes_s:
        return []
    summaries = summarise(bench.runs)
    for summary in summaries:
        over_roofline = None if summary.over_roofline is None else asdict(summary.over_roofline)
        bench.write("summary", {**asdict(summary), "name": summary.case.name, "over_roofline": over_roofline})
    print(format_table(summaries, SPEED))
    print(f"\nDrive, direct random reads of one expert matrix: {show_mb_s(bench.drive_bytes_s)}")
    print(f"beside cores that read memory for {BUSY_PERCENT}% of the time: {show_mb_s(bench.busy_drive_bytes_s)}\n")
    print(format_table(summaries, DRIVE))
    for run in bench.runs:
        if run.failure:
            print(f"failed: {run.case.name}, prompt {run.n_prompt}, round {run.round_idx + 1}: {run.failure}")
    return check(bench.runs, summaries, limits)


def run_rounds(bench: Bench, cases: Sequence[Case], options: argparse.Namespace) -> None:
    for round_idx in range(options.repeat):
        bench.measure_drive(BUSY_PERCENT)
        drive = bench.measure_drive()
        load = os.getloadavg()[0]  # well above the thread count: others use this machine, figures will be low
        print(f"round {round_idx + 1}/{options.repeat}: drive {drive / 1e6:.0f} MB/s, load {load:.1f}", file=sys.stderr)
        for n_prompt in options.prompt_tokens:
            for case in cases:
                run = bench.run(case, n_prompt, round_idx)
                outcome = run.failure or f"{run.result['decode_tok_s']:.2f} tok/s"
                print(f"  {case.name}, prompt {n_prompt}: {outcome}", file=sys.stderr, flush=True)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF; with --widen, where to write it")
    parser.add_argument("--widen", type=Path, metavar="SRC", help="make --model by widening SRC, unless it exists")
    parser.add_argument("--embd", type=int, default=8, help="--widen: repeat count of the residual stream (8)")
    parser.add_argument("--ff", type=int, default=3, help="--widen: repeat count of the experts' hidden layer (3)")
    parser.add_argument("--type", default="Q8_0", choices=["Q8_0", "F16"], help="--widen: type of the matrices (Q8_0)")
    parser.add_argument("--lo", type=Path, help="low-precision copy: adds the mixed cases")
    parser.add_argument("--hi", type=Path, help="mixed: finer copies than --lo (the experts of the model)")
    parser.add_argument("--hi-above", type=float, help="mixed: gate weight from which hi is waited for (as tuned)")
    parser.add_argument("--fall", type=float, help="mixed: how much less that is from layer to layer (0)")
    parser.add_argument(
        "--wait-above", type=float, help="mixed: gate weight below which a lo copy serves meanwhile (0)"
    )
    parser.add_argument(
        "--skip-below", type=float, help="mixed: gate weight below which a missing expert is skipped (0)"
    )
    parser.add_argument("--lo-share", type=float, help="mixed: of the experts' memory, for lo copies (as tuned)")
    rerouting = parser.add_mutually_exclusive_group()
    rerouting.add_argument("--reroute", type=float, help="mixed: margin of policies.Substitute (none)")
    rerouting.add_argument("--reroute-below", type=float, help="mixed: tolerance of policies.Reroute (none)")
    parser.add_argument("--reroute-fall", type=float, help="mixed: how much less that is from layer to layer (0)")
    parser.add_argument("--engines", default="stock,hobbit", help="which to run (stock,hobbit)")
    parser.add_argument(
        "--boxes",
        type=lambda text: [] if text == "none" else parse_numbers(text),
        default=[75, 50, 25, 12],
        help="percent of the file, or 'none', which needs no root (75,50,25,12)",
    )
    parser.add_argument(
        "--arena", type=parse_numbers, default=[], help="also unboxed, with percents of the expert bytes"
    )
    parser.add_argument("--prompt-file", type=Path, default=SCRIPTS / "data" / "excerpt.txt")
    parser.add_argument("--prompt-tokens", type=parse_numbers, default=[64, 512], help="prompt lengths (64,512)")
    parser.add_argument("--decode", type=int, default=128, help="tokens to decode (128)")
    parser.add_argument(
        "--max-decode-s", type=float, default=120, help="end a slow decode after this, 16 tokens at least"
    )
    parser.add_argument("--repeat", type=int, default=3, help="rounds (3)")
    parser.add_argument("--threads", type=int, help="(stock: all cores; hobbit: its own default)")
    parser.add_argument("--read-mb-s", type=float, help="throttle the drive's reads")
    parser.add_argument("--out", type=Path, help="JSON lines: machine, drive, run and summary records")
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 if a run fails, tokens differ or a limit is missed"
    )
    parser.add_argument("--min-ratio-mmap", type=float, help="decode over stock mmap in the same box")
    parser.add_argument("--min-resident-ratio", type=float, help="decode and prompt over stock, all in RAM")
    parser.add_argument("--min-ratio-ram", type=float, help="decode under pressure over stock in RAM")
    parser.add_argument("--min-drive-share", type=float, help="of the drive's bandwidth, where reads are the limit")
    parser.add_argument("--max-over-roofline", type=float, help="token time over max(compute, io)")
    options = parser.parse_args(arguments)
    options.engines = options.engines.split(",")
    if not set(options.engines) <= {"stock", "hobbit"}:
        parser.error(f"--engines is {','.join(options.engines)}, expected stock, hobbit or both")
    for name in ("embd", "ff", "decode", "repeat", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected 1 or more")
    if not options.prompt_file.is_file():
        parser.error(f"--prompt-file {options.prompt_file} does not exist")
    if find_spec("hobbit_py") is None:
        parser.error("hobbit_py is not installed: pip install .")
    if options.check and "hobbit" not in options.engines:
        parser.error("--check judges hobbit: add it to --engines")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    limits = Thresholds(**{name: getattr(options, name) for name in Thresholds.__dataclass_fields__})
    out = None
    try:
        if options.widen is not None and not options.model.exists():
            print(f"widening {options.widen} to {options.model}", file=sys.stderr)
            widen(options.widen, options.model, options.embd, options.ff, gguf.GGMLQuantizationType[options.type])
        sizes = read_sizes(options.model)
        out = options.out.open("a", encoding="utf-8") if options.out else None
        bench = Bench(options, sizes, out)
        machine = machine_fields(options, sizes, bench.env)
        bench.write("machine", machine)
        print("  ".join(f"{key}={value}" for key, value in machine.items()), file=sys.stderr)
        try:
            run_rounds(bench, plan_cases(options), options)
        except KeyboardInterrupt:
            print("interrupted: figures so far", file=sys.stderr)
            report(bench, limits)
            return 130
        problems = report(bench, limits)
    except (BenchError, WidenError) as error:
        print(f"bench_pressure: {error}", file=sys.stderr)
        return 2
    except BoxError as error:
        print(f"bench_pressure: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"bench_pressure: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    finally:
        if out is not None:
            out.close()
    if options.check:
        for problem in problems:
            print(f"check: {problem}", file=sys.stderr)
    return 1 if options.check and problems else 0


if __name__ == "__main__":
    sys.exit(main())
