"""`hobbit inspect`: what a model file holds."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..sizes import format_bytes
from .hub_models import model_file

if TYPE_CHECKING:
    from ..inspection import Inspection


def _ranges(numbers: Sequence[int]) -> str:
    """ "0-3, 5" of 0, 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _print(model: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table

    # In a pipe there is no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    parts = "" if len(model.paths) == 1 else f" in {len(model.paths)} parts"
    console.print(f"{model.paths[0].name}: {model.architecture}, {format_bytes(model.file_bytes)}{parts}", markup=False)
    others = ", ".join(f"{name} {format_bytes(n_bytes)}" for name, n_bytes in model.dense_types.items())
    if not model.groups:
        console.print(f"No experts: hobbit_py runs it as plain llama.cpp. Tensors: {others}.")
        return
    table = Table()
    for heading in ("experts", "type", "layers"):
        table.add_column(heading)
    for heading in ("n_expert", "matrix", "one expert's", "all"):
        table.add_column(heading, justify="right")
    for group in model.groups:
        shape = f"{group.n_in} x {group.n_out}"
        sizes = (format_bytes(group.matrix_bytes), format_bytes(group.total_bytes))
        table.add_row(group.kind, group.type, _ranges(group.layers), str(group.n_expert), shape, *sizes)
    console.print(table)
    console.print(
        f"{format_bytes(model.expert_bytes)} of experts, {model.n_expert_used} used by a token in each layer; "
        f"{format_bytes(model.dense_bytes)} of other tensors: {others}"
    )
    for layer, types in model.layers_that_differ.items():
        console.print(f"Layer {layer} differs: {types}")
    for lo in model.lo_copies:
        what = f"cannot be used: {lo.problem}" if lo.problem else f"{lo.types}, {format_bytes(lo.n_bytes)}"
        console.print(f"lo copy {lo.path.name}: {what}", markup=False)
    if not model.lo_copies:
        console.print("No lo copy beside it; 'hobbit pack' makes one.")


def _as_json(model: Inspection) -> dict[str, Any]:
    report = dataclasses.asdict(model)
    report["paths"] = [os.fspath(path) for path in model.paths]
    report["lo_copies"] = [dataclasses.asdict(lo) | {"path": os.fspath(lo.path)} for lo in model.lo_copies]
    return report


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: Path | None, as_json: bool) -> None:
    """Show a model's expert tensors by kind and type, layers that differ, and the lo copies beside it.

    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model. Only headers are read.
    """
    from ..inspection import inspect_model
    from .native_log import keep_native_errors

    keep_native_errors()
    found = inspect_model(model_file(model))
    if as_json:
        click.echo(json.dumps(_as_json(found)))
    else:
        _print(found)
