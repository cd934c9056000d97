"""`hobbit doctor`: whether this machine and what is installed on it will run a model well."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: Path | None, as_json: bool) -> int:
    """Check versions, processor, memory, drive and GPU; each line says ok, warning or error, and the remedy.

    With MODEL, a GGUF file, the model is checked too, and the drive is measured where it lies. The exit code is 1 if
    there was an error.
    """
    from ..doctor import Check, Level, run_checks
    from .hub_models import model_file

    colours = {Level.ok: "green", Level.warning: "yellow", Level.error: "red"}

    def show(check: Check) -> None:
        click.echo(f"{click.style(f'{check.level.value:<8}', fg=colours[check.level])} {check.name}: {check.found}")
        if check.fix:
            click.echo(f"{'':<8} -> {check.fix}")

    checks = []
    for check in run_checks(None if model is None else model_file(model)):
        checks.append(check)
        if not as_json:
            show(check)
    if as_json:
        click.echo(json.dumps({"checks": [dataclasses.asdict(check) for check in checks]}))
    return 1 if any(check.level is Level.error for check in checks) else 0
