"""`hobbit bench`: how fast a model runs on this machine within given budgets, and what limits it."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundled import sample_text
from ..errors import HobbitError, UsageError
from ..sizes import format_bytes, parse_bytes
from . import common
from .bench_tables import Report, print_tables
from .checks import check_options
from .hub_models import model_file
from .mixed_options import mixed_options
from .perplexity import progress_bar

if TYPE_CHECKING:
    from ..bench.machine import ModelSizes
    from ..bench.runs import Budget, Case, Figures, Run, Setup

_RESIDENT_SHARE = 0.9  # of what is free: how much of it the run with every expert in memory may take


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


def _precisions(precision: str, *, has_lo: bool) -> list[str]:
    if precision != "auto":
        return [precision]
    return ["exact", "mixed"] if has_lo else ["exact"]


def _cases(budgets: Sequence[Budget], precisions: Sequence[str]) -> Iterator[Case]:
    from ..bench.runs import Case

    for budget in budgets:
        # With every expert in hi at hand, mixed mode computes the same.
        for precision in ["exact"] if budget.resident else precisions:
            yield Case(budget, precision)


def _measure(
    setup: Setup, cases: Sequence[Case], sizes: ModelSizes, repeat: int, progress: Callable[[float], None] | None
) -> Report:
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
    return Report(runs, figures_of(runs, bandwidth), drive_bytes_s, sizes.matrix_bytes)


def _json_report(model: Path, setup: Setup, report: Report) -> dict[str, Any]:
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
        "mixed": dataclasses.asdict(setup.mixed),
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


def _save(model: Path, setup: Setup, sizes: ModelSizes, report: Report) -> Path:
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
@common.copies_options
@mixed_options
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
    hi: Path | None,
    text: Path | None,
    prompt_tokens: int,
    n_tokens: int,
    max_seconds: float,
    repeat: int,
    threads: int | None,
    no_reference: bool,
    save: bool,
    as_json: bool,
    **mixed_parameters: object,
) -> None:
    """Measure how fast a model runs on this machine, and what limits it.

    One process for each budget and precision, along a text. Where it fits, a run with every expert in memory gives
    the time that computing alone takes; the drive is measured at direct reads of the size of an expert's matrix.
    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model.
    """
    from ..bench.decode import RunShape
    from ..bench.machine import model_sizes
    from ..bench.runs import MixedSetup, Setup, check_exact
    from ..mixed import choose_copies
    from ..policies import preset_of

    policies = preset_of(preset)
    model = model_file(model)
    options = common.ModelOptions.of(
        {"model": model, "precision": precision, "preset": preset, "lo": lo, "hi": hi, **mixed_parameters}
    )
    mixed_keywords = options.mixed.keywords()
    check_options(options, options.mixed.names)
    sizes = model_sizes(model)
    chosen = "exact" if precision == "auto" and policies.precision == "exact" else precision
    lo_path, hi_path = choose_copies(model, lo, hi, chosen)
    mixed = MixedSetup(
        lo=None if lo_path is None else os.fspath(lo_path),
        hi=None if hi_path is None else os.fspath(hi_path),
        **mixed_keywords,
    )
    text = text or sample_text()
    if not text.is_file():
        raise UsageError(f"The text {str(text)!r} is not a file.")
    budgets = _budgets(memory, expert_memory, sizes, reference=not no_reference)
    shape = RunShape(n_prompt=prompt_tokens, n_decode=n_tokens, max_decode_s=max_seconds)
    setup = Setup(model, text, threads, shape, preset, mixed)
    cases = list(_cases(budgets, _precisions(precision, has_lo=lo_path is not None)))
    with progress_bar(f"measuring {model.name}") as progress:
        report = _measure(setup, cases, sizes, repeat, progress)
    if as_json:
        click.echo(json.dumps(_json_report(model, setup, report)))
    elif report.figures:
        print_tables(report)
    if policies.router_filter == "none":
        check_exact(report.runs)
    if save and report.figures:
        click.echo(f"hobbit: Kept in {_save(model, setup, sizes, report)}.", err=True)
    if all(run.failure for run in report.runs):
        raise HobbitError("No run succeeded; each one's reason is above.")
