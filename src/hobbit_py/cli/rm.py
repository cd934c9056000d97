"""`hobbit rm`: removes a model of the hub from this machine."""

from __future__ import annotations

import sys

import click

from ..sizes import format_bytes


@click.command()
@click.argument("model", metavar="ORG/REPO[:QUANT]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(model: str, yes: bool) -> None:
    """Remove a model from the hub's cache; without QUANT all of the repository, lo copies made beside it too."""
    from ..hub.cache import remove_model
    from ..hub.reference import Reference

    reference = Reference.parse(model)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove {reference}?", abort=True, err=True)
    click.echo(f"hobbit: {format_bytes(remove_model(reference))} freed.", err=True)
