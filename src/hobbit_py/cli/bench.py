"""`hobbit bench`: how fast a model runs on this machine within given budgets, and what limits it."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundled import sample_text
from ..errors import HobbitError, UsageError
from ..sizes import format_bytes, parse_bytes
from ..stats import format_share
from .hub_models import model_file
from .perplexity import progress_bar

if TYPE_CHECKING:
    from ..bench.machine import ModelSizes
    from ..bench.runs import Budget, Case, Figures, Run, Setup

_RESIDENT_SHARE = 0.9  # of what is free: how much of it the run with every expert in memory may take


@dataclass(frozen=True)
class _Report:
    """What was measured, and what is printed."""

    runs: list[Run]
    figures: list[Figures]
    drive_bytes_s: list[float]
    matrix_bytes: int

    @property
    def drive_median_bytes_s(self) -> float | None:
        return statistics.median(self.drive_bytes_s) if self.drive_bytes_s else None


def _sizes(text: str | None, *, percent_of: int | None = None) -> list[tuple[str, int | str]]:
    """(label, bytes) of a list such as 8GiB,4GiB; with `percent_of` also 50%, without it also auto."""
    found: list[tuple[str, int | str]] = []
    for part in (text or "").split(","):
        word = part.strip()
        if percent_of is not None and word.endswith("%"):
            try:
                percent = float(word[:-1])
            except ValueError:
                percent = -1.0
            if not 0 <= percent <= 100:
                raise UsageError(f"{word!r} is not a percentage of the experts' bytes such as 50%.")
            found.append((f"{percent:g}% of the experts", int(percent_of * percent / 100)))
        elif word == "auto" and percent_of is None:
            found.append(("memory auto", "auto"))
        elif word:
            n_bytes = parse_bytes(word)
            name = "memory" if percent_of is None else "expert memory"
            found.append((f"{name} {format_bytes(n_bytes)}", n_bytes))
    return found


def _budgets(memory: str | None, expert_memory: str | None, sizes: ModelSizes, *, reference: bool) -> list[Budget]:
    from ..bench.runs import Budget
    from ..memory import available_bytes

    budgets = []
    if reference and sizes.file_bytes < available_bytes() * _RESIDENT_SHARE:
        budgets.append(Budget.everything())
    if memory is None and expert_memory is None:
        memory = "auto"
    budgets += [Budget(label, memory=n) for label, n in _sizes(memory)]
    budgets += [
        Budget(label, expert_memory=int(n)) for label, n in _sizes(expert_memory, percent_of=sizes.expert_bytes)
    ]
    return budgets


def _precisions(precision: str, lo: Path | None) -> list[str]:
    if precision == "mixed" and lo is None:
        raise UsageError("--precision mixed needs a lo copy and there is none; make one with 'hobbit pack'.")
    if precision != "auto":
        return [precision]
    return ["exact"] if lo is None else ["exact", "mixed"]


def _cases(budgets: Sequence[Budget], precisions: Sequence[str]) -> Iterator[Case]:
    from ..bench.runs import Case

    for budget in budgets:
        # With every expert in hi at hand, mixed mode computes the same.
        for precision in ["exact"] if budget.resident else precisions:
            yield Case(budget, precision)


def _measure(
    setup: Setup, cases: Sequence[Case], sizes: ModelSizes, repeat: int, progress: Callable[[float], None] | None
) -> _Report:
    """Runs all cases, `repeat` times round, with a measurement of the drive before each round and after the last."""
    from ..bench.drive import DriveError, best_random_reads
    from ..bench.runs import figures_of, run_case

    runs: list[Run] = []
    drive_bytes_s: list[float] = []

    def measure_drive() -> None:
        try:
            drive_bytes_s.append(best_random_reads(sizes.largest_file, sizes.matrix_bytes))
        except DriveError as error:
            click.echo(f"hobbit: {error} Figures about the drive are left out.", err=True)

    for _ in range(repeat):
        measure_drive()
        for case in cases:
            run = run_case(setup, case)
            runs.append(run)
            if run.failure:
                click.echo(f"hobbit: {case.budget.label}, {case.precision}: {run.failure}", err=True)
            if progress is not None:
                progress(len(runs) / (repeat * len(cases)))
    measure_drive()
    bandwidth = statistics.median(drive_bytes_s) if drive_bytes_s else None
    return _Report(runs, figures_of(runs, bandwidth), drive_bytes_s, sizes.matrix_bytes)


def _maybe(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


_Column = tuple[str, "Callable[[Figures], str]"]
_SPEED: Sequence[_Column] = (
    ("decode tok/s", lambda f: f"{f.decode_tok_s:.2f}"),
    ("min-max", lambda f: f"{f.decode_tok_s_min:.2f}-{f.decode_tok_s_max:.2f}"),
    ("prompt tok/s", lambda f: f"{f.prompt_tok_s:.1f}"),
    ("ready s", lambda f: f"{f.load_s:.2f}"),
    ("first token s", lambda f: f"{f.first_token_s:.2f}"),
    ("CPU s/token", lambda f: f"{f.cpu_s_per_token:.3f}"),
    ("hits", lambda f: format_share(f.hit_rate)),
    (
        "experts MiB",
        lambda f: _maybe(None if f.expert_memory_bytes is None else f.expert_memory_bytes / 2**20, "{:.0f}"),
    ),
    ("peak MiB", lambda f: f"{f.peak_rss_bytes / 2**20:.0f}"),
)
_LIMITS: Sequence[_Column] = (
    ("MB/token", lambda f: _maybe(_scaled(f.read_bytes_per_token, 1e-6), "{:.1f}")),
    ("MB/s", lambda f: _maybe(_scaled(f.achieved_bytes_s, 1e-6), "{:.0f}")),
    ("of drive", lambda f: _maybe(f.drive_share, "{:.0%}")),
    ("stall ms", lambda f: _maybe(_scaled(f.stall_s_per_token, 1e3), "{:.1f}")),
    ("token ms", lambda f: f"{1e3 / f.decode_tok_s:.1f}"),
    ("compute ms", lambda f: ("~" if f.compute_is_estimate else "") + _of_roofline(f, "compute_s")),
    ("io ms", lambda f: _of_roofline(f, "io_s")),
    ("token/max", lambda f: _maybe(f.roofline.over_max if f.roofline else None, "{:.2f}")),
    ("max 0..1 sum", lambda f: _maybe(f.roofline.position if f.roofline else None, "{:.2f}")),
)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _of_roofline(figures: Figures, name: str) -> str:
    return "-" if figures.roofline is None else f"{1e3 * getattr(figures.roofline, name):.1f}"


def _print_table(title: str, figures: Sequence[Figures], columns: Sequence[_Column]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("budget", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=not sys.stdout.isatty())
    for f in figures:
        table.add_row(f.case.budget.label, f.case.precision, *(show(f) for _, show in columns))
    # In a pipe there is no width to fit into.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _print_tables(report: _Report) -> None:
    _print_table("Speed", report.figures, _SPEED)
    _print_table("Limits", report.figures, _LIMITS)
    if report.drive_bytes_s:
        low, high = min(report.drive_bytes_s) / 1e6, max(report.drive_bytes_s) / 1e6
        click.echo(
            f"Drive: {(report.drive_median_bytes_s or 0) / 1e6:.0f} MB/s ({low:.0f}-{high:.0f}) at direct random reads "
            f"of {format_bytes(report.matrix_bytes)}, one matrix of one expert."
        )
    if any(f.compute_is_estimate for f in report.figures):
        click.echo("~: token time less its stalls, as no run had every expert in memory.")


def _json_report(model: Path, setup: Setup, report: _Report) -> dict[str, Any]:
    from ..bench.machine import this_machine
    from ..cores import n_usable_cores

    def roofline(figures: Figures) -> dict[str, Any] | None:
        if figures.roofline is None:
            return None
        derived = {"over_max": figures.roofline.over_max, "position": figures.roofline.position}
        return dataclasses.asdict(figures.roofline) | derived

    return {
        "model": os.fspath(model),
        "machine": dataclasses.asdict(this_machine()),
        "preset": setup.preset,
        "n_threads": setup.n_threads or n_usable_cores(),
        "prompt_tokens": setup.shape.n_prompt,
        "drive": {
            "read_size_bytes": report.matrix_bytes,
            "bytes_s": report.drive_median_bytes_s,
            "bytes_s_measured": report.drive_bytes_s,
        },
        "figures": [dataclasses.asdict(f) | {"roofline": roofline(f)} for f in report.figures],
        "runs": [dataclasses.asdict(run) for run in report.runs],
    }


def _save(model: Path, setup: Setup, sizes: ModelSizes, report: _Report) -> Path:
    from ..bench.machine import processor_name
    from ..bench.stored import StoredBench, reuse_points, save_bench
    from ..cores import n_usable_cores

    resident = next((f for f in report.figures if f.case.budget.resident), None)
    stored = StoredBench(
        file_bytes=sizes.file_bytes,
        reuse=reuse_points(report.figures, sizes.expert_bytes, sizes.expert_bytes_per_token),
        processor=processor_name(),
        n_threads=setup.n_threads or n_usable_cores(),
        compute_s=None if resident is None else 1 / resident.decode_tok_s,
    )
    try:
        return save_bench(model, stored)
    except OSError as error:
        raise HobbitError(
            f"The figures cannot be kept beside the model: {error.strerror}; measure a copy of it in a folder that you "
            "can write to."
        ) from error


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--memory", metavar="SIZE,...", help="Budgets of the whole process, or auto. [default: auto]")
@click.option("--expert-memory", metavar="SIZE,...", help="Budgets of the expert cache alone; 50% is of all experts.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "exact", "mixed"]),
    default="auto",
    show_default=True,
    help="auto: exact, and mixed if there is a lo copy that the preset uses.",
)
@click.option(
    "--preset",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Whose policies to run with, such as baseline or hobbit; auto is what 'hobbit tune' found.",
)
@click.option("--lo", type=click.Path(path_type=Path), metavar="FILE", help="GGUF with the low-precision copies.")
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="The prompt. [default: a bundled text]")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens of the prompt."
)
@click.option("-n", "n_tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens to decode.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="S",
    help="End a slow decode after this, at least 16 tokens.",
)
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Rounds; medians are shown.")
@click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Compute threads. [default: as many as a model takes by itself]",
)
@click.option("--no-reference", is_flag=True, help="Leave out the run with every expert in memory.")
@click.option("--save", is_flag=True, help="Keep what was found beside the model, for 'hobbit plan'.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: Path | None,
    memory: str | None,
    expert_memory: str | None,
    precision: str,
    preset: str,
    lo: Path | None,
    text: Path | None,
    prompt_tokens: int,
    n_tokens: int,
    max_seconds: float,
    repeat: int,
    threads: int | None,
    no_reference: bool,
    save: bool,
    as_json: bool,
) -> None:
    """Measure how fast a model runs on this machine, and what limits it.

    One process for each budget and precision, along a text. Where it fits, a run with every expert in memory gives
    the time that computing alone takes; the drive is measured at direct reads of the size of an expert's matrix.
    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model.
    """
    from ..bench.decode import RunShape
    from ..bench.machine import model_sizes
    from ..bench.runs import Setup, check_exact
    from ..pack import find_lo
    from ..policies import preset_of

    policies = preset_of(preset)
    model = model_file(model)
    sizes = model_sizes(model)
    is_exact = precision == "exact" or (precision == "auto" and policies.precision == "exact")
    lo = None if is_exact else lo or find_lo(model)
    text = text or sample_text()
    if not text.is_file():
        raise UsageError(f"The text {str(text)!r} is not a file.")
    budgets = _budgets(memory, expert_memory, sizes, reference=not no_reference)
    shape = RunShape(n_prompt=prompt_tokens, n_decode=n_tokens, max_decode_s=max_seconds)
    setup = Setup(model, text, lo, threads, shape, preset)
    cases = list(_cases(budgets, _precisions(precision, lo)))
    with progress_bar(f"measuring {model.name}") as progress:
        report = _measure(setup, cases, sizes, repeat, progress)
    if as_json:
        click.echo(json.dumps(_json_report(model, setup, report)))
    elif report.figures:
        _print_tables(report)
    if policies.router_filter == "none":
        check_exact(report.runs)
    if save and report.figures:
        click.echo(f"hobbit: Kept in {_save(model, setup, sizes, report)}.", err=True)
    if all(run.failure for run in report.runs):
        raise HobbitError("No run succeeded; each one's reason is above.")
