"""A command's MODEL argument that may name a model on the hub, and the bar of its download."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ..bundled import bundled_model


def model_file(model: Path | None) -> Path:
    """The file to open: the bundled model for None, a model on the hub fetched on its first use, else the file itself.

    Raises HobbitError.
    """
    from ..hub.reference import Reference

    if model is None:
        return bundled_model()
    reference = Reference.of_argument(model)
    if reference is None:
        return model
    from ..hub.fetch import resolve

    with download_bar() as progress:
        return resolve(os.fspath(model), progress)


@contextlib.contextmanager
def download_bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr if that is a terminal: one task at a time, by the name it is called with."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, TaskID] = {}

    def report(name: str, n_done: int, n_total: int) -> None:
        if name not in tasks:
            for task in tasks.values():
                bar.update(task, visible=False)
            tasks[name] = bar.add_task(name, total=n_total)
        bar.update(tasks[name], completed=n_done)

    with bar:
        yield report
