"""`hobbit pack`: makes the lo copy of a model."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ..sizes import format_bytes


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[float], None] | None]:
    """A bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("packing {task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(name, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)


def _show_note(note: str) -> None:
    click.echo(f"hobbit: {note}", err=True)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--lo",
    default="Q2_K",
    show_default=True,
    metavar="TYPE[,KIND=TYPE]",
    help="Type of the copies; KIND is gate, up, down or gate_up: Q2_K,down=Q4_0.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The file to write. [default: MODEL.lo-TYPE.gguf]",
)
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Importance matrix of 'hobbit imatrix' or llama-imatrix. [default: MODEL.imatrix.gguf if it is there]",
)
@click.option(
    "--feedback/--no-feedback",
    default=True,
    show_default=True,
    help="Round with error feedback, if the importance matrix is of 'hobbit imatrix': better copies, in more time.",
)
@click.option("--threads", type=click.IntRange(1, 4096), metavar="N", help="Threads. [default: all cores]")
def command(model: Path, lo: str, out: Path | None, imatrix: Path | None, feedback: bool, threads: int | None) -> None:
    """Make low-precision copies of a model's experts, for mixed precision.

    MODEL is a GGUF file, or the first part of a split one. Writes the path of the new file to stdout. A run that was
    interrupted is continued by the same command.
    """
    from ..pack import pack
    from ..pack.paths import default_imatrix
    from .hub_models import model_file
    from .native_log import keep_native_errors

    keep_native_errors()
    model = model_file(model)
    if imatrix is None and default_imatrix(model).is_file():
        imatrix = default_imatrix(model)
        _show_note(f"Using the importance matrix {imatrix.name} beside the model.")
    time_start = time.perf_counter()
    try:
        with _progress_bar(model.name) as progress:
            packed = pack(model, lo, out, imatrix, threads, progress, feedback=feedback, note=_show_note)
    except KeyboardInterrupt:
        click.echo("hobbit: Stopped; the same command continues from here.", err=True)
        raise
    if sys.stderr.isatty():
        elapsed_s = time.perf_counter() - time_start
        click.echo(f"hobbit: {format_bytes(packed.stat().st_size)} in {elapsed_s:.0f} s.", err=True)
    click.echo(os.fspath(packed))
