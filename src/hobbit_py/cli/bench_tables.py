"""The tables of `hobbit bench`."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ..sizes import format_bytes
from ..stats import format_share

if TYPE_CHECKING:
    from ..bench.runs import Figures, Run


@dataclass(frozen=True)
class Report:
    """What was measured, and what is printed."""

    runs: list[Run]
    figures: list[Figures]
    drive_bytes_s: list[float]
    matrix_bytes: int

    @property
    def drive_median_bytes_s(self) -> float | None:
        """None where the drive could not be measured."""
        return statistics.median(self.drive_bytes_s) if self.drive_bytes_s else None

    @property
    def mixed_notes(self) -> list[str]:
        """What runs in mixed mode said of their copies and settings, each once."""
        notes = (run.measurement.note for run in self.runs if run.measurement and run.case.precision == "mixed")
        return list(dict.fromkeys(note for note in notes if note is not None))


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


def print_tables(report: Report) -> None:
    """All of them, and how the drive was measured."""
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
    for note in report.mixed_notes:
        click.echo(f"mixed: {note}")
