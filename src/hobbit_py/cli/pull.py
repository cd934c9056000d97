"""`hobbit pull`: fetches a model from the hub."""

from __future__ import annotations

import os

import click

from .hub_models import download_bar


@click.command()
@click.argument("model", metavar="ORG/REPO[:QUANT]")
def command(model: str) -> None:
    """Fetch a GGUF model from the Hugging Face hub, all its parts, and print the path of its (first) file.

    Without QUANT the only model of the repository is taken, or Q4_K_M. A download that was interrupted is continued by
    the same command, and what came is compared with the hub's SHA-256. Files go to the hub's cache (HF_HOME), which
    other programs share; HF_ENDPOINT names a mirror.
    """
    from ..hub.fetch import pull
    from ..hub.reference import Reference

    reference = Reference.parse(model)
    try:
        with download_bar() as progress:
            path = pull(reference, progress)
    except KeyboardInterrupt:
        click.echo("hobbit: Stopped; the same command continues from here.", err=True)
        raise
    click.echo(os.fspath(path))
