"""`hobbit list`: the models from the hub that are on this machine."""

from __future__ import annotations

import datetime
import json
import os
import sys

import click

from ..sizes import format_bytes


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """List the GGUF models in the hub's cache: name, size, last use."""
    from ..hub.cache import list_models

    models = list_models()
    if as_json:
        report = [
            {
                "model": str(model.reference),
                "path": os.fspath(model.path),
                "n_bytes": model.n_bytes,
                "last_used": model.last_used,
                "complete": model.complete,
            }
            for model in models
        ]
        click.echo(json.dumps({"models": report}))
        return
    if not models:
        click.echo("hobbit: There are no models from the hub on this machine; 'hobbit pull' fetches one.", err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "size", "last used", "file")
    for model in models:
        used = datetime.datetime.fromtimestamp(model.last_used).astimezone().strftime("%Y-%m-%d")
        size = format_bytes(model.n_bytes) + ("" if model.complete else ", parts missing")
        table.add_row(str(model.reference), size, used, os.fspath(model.path))
    Console(width=None if sys.stdout.isatty() else 250, highlight=False).print(table)
