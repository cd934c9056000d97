"""`hobbit trace`: records what a model's routers choose over a text, for `hobbit simulate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ..errors import UsageError
from . import common
from .perplexity import progress_bar

_DEFAULT_WINDOW = 512


@click.command()
@common.tuning_parameters
@click.option("--text", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The text to read.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The trace, an .npz file."
)
@click.option(
    "--tokens",
    "max_tokens",
    type=click.IntRange(min=8),
    default=4096,
    show_default=True,
    help="Use the first N tokens.",
)
def command(text: Path, output: Path, max_tokens: int, **model_options: object) -> None:
    """Record which experts a model's routers choose over a text, and which would have been predicted.

    The text is cut into sequences of --ctx tokens (default 512), computed token by token as in decoding, in exact mode
    and without router filters. The sizes of a lo copy are recorded if there is one, so that mixed precision can be
    simulated.

    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model.
    """
    from ..evaluate import read_text, windows_of
    from ..policies import AlwaysHigh
    from ..simulate.record import record_trace
    from ..simulate.trace import save_trace

    options = common.ModelOptions.of(model_options)
    n_ctx = options.ctx or _DEFAULT_WINDOW
    data = read_text(text)
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder {str(output.parent)!r} for the trace; make it, or name another.")
    options = dataclasses.replace(options.unfiltered().untuned(), ctx=n_ctx)
    llama = common.load_llama(options, show=False, policy=AlwaysHigh(), lo_share=0.0)
    try:
        windows = windows_of(llama, data, n_ctx, max_tokens=max_tokens)
        with progress_bar(f"tracing {Path(llama.model_paths[0]).name}") as progress:
            trace = record_trace(llama, windows, progress=progress)
    finally:
        llama.close()
    try:
        save_trace(output, trace)
    except OSError as error:
        raise UsageError(f"The trace {str(output)!r} cannot be written: {error.strerror}.") from error
    click.echo(f"{trace.n_tokens} tokens, {len(trace.layers)} layers, {trace.n_used} experts each: stored in {output}.")
