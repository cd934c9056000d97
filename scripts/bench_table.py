"""Figures of the pressure benchmark: medians over rounds, ratios to stock, the roofline, thresholds, text tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hobbit_py.bench.roofline import Roofline


@dataclass(frozen=True)
class Case:
    """One configuration: boxed at `box_percent` of the file, an arena of `arena_percent` of the experts, or free."""

    engine: str  # "stock" or "hobbit"
    precision: str = "exact"
    mmap: bool = False
    box_percent: int | None = None
    arena_percent: int | None = None

    @property
    def resident(self) -> bool:
        return self.box_percent is None and self.arena_percent in (None, 100)

    @property
    def name(self) -> str:
        engine = "stock mmap" if self.mmap else "stock" if self.engine == "stock" else f"hobbit {self.precision}"
        if self.resident:
            return f"{engine}, all in RAM"
        if self.box_percent is not None:
            return f"{engine}, {self.box_percent}% box"
        return f"{engine}, {self.arena_percent}% arena"


@dataclass(frozen=True)
class Run:
    """One child process; `failure` is a sentence where there is no `result` (the child's JSON object).

    `drive_bytes_s`: what plain reads got just before and just after it, the mean.
    """

    case: Case
    n_prompt: int
    round_idx: int
    result: dict[str, Any]
    drive_bytes_s: float
    box_peak_bytes: int | None = None
    failure: str = ""


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        return Spread(statistics.median(values), min(values), max(values)) if values else None

    def show(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


@dataclass(frozen=True)
class Summary:
    """A case at one prompt length over all rounds. Times in seconds per token, bytes per token."""

    case: Case
    n_prompt: int
    decode_tok_s: Spread
    prompt_tok_s: Spread
    load_s: float
    first_token_s: float
    bytes_per_token: float
    hit_rate: float | None
    stall_s: float | None
    cpu_s: float
    peak_bytes: float
    achieved_bytes_s: float
    drive_share: Spread | None  # of what plain reads got beside each run; None where everything is resident
    compute_s: float | None  # token time with everything resident
    io_s: float | None
    rooflines: Sequence[Roofline]  # one a run; empty where everything is resident: there are no reads to overlap
    ratio_to_mmap: float | None
    ratio_to_ram: float | None
    prompt_ratio_to_ram: float | None

    @property
    def over_roofline(self) -> Spread | None:
        """Token time over max(compute, reads): 1 is perfect overlap, their sum over the maximum is none."""
        return Spread.of([roofline.over_max for roofline in self.rooflines])

    @property
    def position(self) -> float | None:
        """Where the token time lies from max(compute, reads), 0, to their sum, 1; None where the two are the same."""
        positions = [roofline.position for roofline in self.rooflines if roofline.position is not None]
        return statistics.median(positions) if positions else None

    @property
    def io_bound(self) -> bool:
        return self.compute_s is not None and self.io_s is not None and self.io_s > self.compute_s


def read_bytes_per_token(run: Run) -> float:
    """hobbit counts its own reads; stock's are what the drive delivered, read-ahead included."""
    own: float | None = run.result.get("read_bytes_per_token")
    return own if own is not None else run.result.get("storage_bytes_per_token") or 0.0


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """One summary per case and prompt length that had a successful run, in the order of their first runs.

    A run is compared with the drive as it was beside that run: virtual drives change by a fifth within minutes.
    """
    good: dict[tuple[Case, int], list[Run]] = {}
    for run in runs:
        if not run.failure:
            good.setdefault((run.case, run.n_prompt), []).append(run)

    def median(key: tuple[Case, int], field: str) -> float | None:
        values = [run.result[field] for run in good.get(key, []) if field in run.result]
        return statistics.median(values) if values else None

    def spread(key: tuple[Case, int], field: str) -> Spread:
        found = Spread.of([run.result[field] for run in good[key]])
        assert found is not None  # of a group, which has runs
        return found

    summaries = []
    for key, group in good.items():
        case, n_prompt = key
        decode = spread(key, "decode_tok_s")
        prompt = spread(key, "prompt_tok_s")
        read_bytes = statistics.median(map(read_bytes_per_token, group))
        in_ram = median((Case("stock"), n_prompt), "decode_tok_s")
        all_resident = median((Case("hobbit", arena_percent=100), n_prompt), "decode_tok_s") or in_ram
        compute_s = 1 / all_resident if all_resident else None
        reading = [] if case.resident else group
        io_s = [read_bytes_per_token(run) / run.drive_bytes_s for run in reading]
        token_s = [1 / run.result["decode_tok_s"] for run in reading]
        mapped = median((Case("stock", mmap=True, box_percent=case.box_percent), n_prompt), "decode_tok_s")
        in_ram_prompt = median((Case("stock"), n_prompt), "prompt_tok_s")
        peaks = [run.box_peak_bytes or run.result["peak_rss_bytes"] for run in group]
        summaries.append(
            Summary(
                case=case,
                n_prompt=n_prompt,
                decode_tok_s=decode,
                prompt_tok_s=prompt,
                load_s=median(key, "load_s") or 0.0,
                first_token_s=median(key, "first_token_s") or 0.0,
                bytes_per_token=read_bytes,
                hit_rate=median(key, "hit_rate"),
                stall_s=median(key, "stall_s_per_token"),
                cpu_s=median(key, "cpu_s_per_token") or 0.0,
                peak_bytes=statistics.median(peaks),
                achieved_bytes_s=read_bytes * decode.median,
                drive_share=Spread.of([io / token for io, token in zip(io_s, token_s, strict=True)]),
                compute_s=compute_s,
                io_s=statistics.median(io_s) if io_s else None,
                rooflines=[Roofline(compute_s, *times) for times in zip(io_s, token_s, strict=True)]
                if compute_s
                else [],
                ratio_to_mmap=decode.median / mapped if mapped else None,
                ratio_to_ram=decode.median / in_ram if in_ram else None,
                prompt_ratio_to_ram=prompt.median / in_ram_prompt if in_ram_prompt else None,
            )
        )
    return summaries


def maybe(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)


def show_share(share: Spread | None) -> str:
    return "-" if share is None else f"{share.median:.0%} ({share.low:.0%}-{share.high:.0%})"


Column = tuple[str, Callable[[Summary], str]]

SPEED: Sequence[Column] = (
    ("case", lambda s: s.case.name),
    ("prompt", lambda s: str(s.n_prompt)),
    ("decode tok/s", lambda s: s.decode_tok_s.show()),
    ("x mmap", lambda s: maybe(s.ratio_to_mmap)),
    ("x RAM", lambda s: maybe(s.ratio_to_ram)),
    ("prompt tok/s", lambda s: s.prompt_tok_s.show(1)),
    ("x RAM", lambda s: maybe(s.prompt_ratio_to_ram)),
    ("ready s", lambda s: f"{s.load_s:.2f}"),
    ("first token s", lambda s: f"{s.first_token_s:.2f}"),
    ("CPU s/tok", lambda s: f"{s.cpu_s:.3f}"),
    ("peak MiB", lambda s: f"{s.peak_bytes / 2**20:.0f}"),
)

DRIVE: Sequence[Column] = (
    ("case", lambda s: s.case.name),
    ("prompt", lambda s: str(s.n_prompt)),
    ("MB/token", lambda s: f"{s.bytes_per_token / 1e6:.1f}"),
    ("MB/s", lambda s: f"{s.achieved_bytes_s / 1e6:.0f}"),
    ("of drive", lambda s: show_share(s.drive_share)),
    ("hits", lambda s: maybe(s.hit_rate, "{:.1%}")),
    ("stall ms", lambda s: maybe(None if s.stall_s is None else 1e3 * s.stall_s, "{:.1f}")),
    ("token ms", lambda s: f"{1e3 / s.decode_tok_s.median:.1f}"),
    ("compute ms", lambda s: maybe(None if s.compute_s is None else 1e3 * s.compute_s, "{:.1f}")),
    ("io ms", lambda s: maybe(None if s.io_s is None else 1e3 * s.io_s, "{:.1f}")),
    ("token/max", lambda s: s.over_roofline.show() if s.over_roofline else "-"),
    ("max 0..1 sum", lambda s: maybe(s.position)),
)


def format_table(summaries: Sequence[Summary], columns: Sequence[Column]) -> str:
    rows = [[title for title, _ in columns], *([show(s) for _, show in columns] for s in summaries)]
    widths = [max(len(row[idx]) for row in rows) for idx in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if idx == 0 else cell.rjust(width)
            for idx, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


@dataclass(frozen=True)
class Thresholds:
    """What `--check` asks for; None asks nothing."""

    min_ratio_mmap: float | None = None
    min_resident_ratio: float | None = None
    min_ratio_ram: float | None = None
    min_drive_share: float | None = None
    max_over_roofline: float | None = None


def check(runs: Sequence[Run], summaries: Sequence[Summary], limits: Thresholds) -> list[str]:
    """A sentence for each failed hobbit run, each exact run whose tokens are not stock's, each threshold missed."""
    problems = [
        f"{run.case.name}, prompt {run.n_prompt}, round {run.round_idx + 1}: {run.failure}"
        for run in runs
        if run.failure and run.case.engine == "hobbit"
    ]
    problems += token_differences(runs)

    def ask(summary: Summary, what: str, value: float | None, low: float | None, high: float | None = None) -> None:
        bound = low if low is not None else high
        if bound is None:
            return
        bad = value is None or (low is not None and value < low) or (high is not None and value > high)
        if bad:
            word = "at least" if low is not None else "at most"
            found = "not measured" if value is None else f"{value:.2f}"
            problems.append(
                f"{summary.case.name}, prompt {summary.n_prompt}: {what} {found}, expected {word} {bound:g}"
            )

    for s in summaries:
        if s.case.engine != "hobbit":
            continue
        if s.case.resident:
            ask(s, "decode over stock in RAM is", s.ratio_to_ram, limits.min_resident_ratio)
            ask(s, "prompt speed over stock in RAM is", s.prompt_ratio_to_ram, limits.min_resident_ratio)
            continue
        if s.case.box_percent is not None:
            ask(s, "decode over stock mmap is", s.ratio_to_mmap, limits.min_ratio_mmap)
        ask(s, "decode over stock in RAM is", s.ratio_to_ram, limits.min_ratio_ram)
        over_roofline = s.over_roofline.median if s.over_roofline else None
        ask(s, "token time over max(compute, io) is", over_roofline, None, limits.max_over_roofline)
        if s.io_bound:
            share = s.drive_share.median if s.drive_share else None
            ask(s, "share of the drive's bandwidth is", share, limits.min_drive_share)
    return problems


def token_differences(runs: Sequence[Run]) -> list[str]:
    """Exact runs whose tokens are not stock's, compared as far as both decoded."""
    stock = {run.n_prompt: run.result["tokens"] for run in runs if run.case == Case("stock") and not run.failure}
    problems = []
    for run in runs:
        if run.failure or run.case.precision != "exact" or run.n_prompt not in stock:
            continue
        pairs = enumerate(zip(run.result["tokens"], stock[run.n_prompt], strict=False))
        differing = next((idx for idx, (found, expected) in pairs if found != expected), None)
        if differing is not None:
            where = f"{run.case.name}, prompt {run.n_prompt}, round {run.round_idx + 1}"
            problems.append(f"{where}: token {differing} differs from stock")
    return problems
