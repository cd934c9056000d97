"""`hobbit imatrix`: the importance matrix that makes lo copies better."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import click

from ..errors import UsageError
from . import common
from .hub_models import model_file
from .perplexity import progress_bar

_DEFAULT_WINDOW = 512


@click.command()
@common.tuning_parameters
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text like yours; may be given several times. [default: a bundled sample]",
)
@click.option(
    "--tokens", "max_tokens", type=click.IntRange(min=64), default=16384, show_default=True, help="Tokens of each text."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The file to write. [default: MODEL.imatrix.gguf, where 'hobbit pack' finds it]",
)
def command(texts: tuple[Path, ...], max_tokens: int, out: Path | None, **model_options: object) -> None:
    """Measure on a text which inputs of each expert matter, so that 'hobbit pack' makes better copies.

    Writes the path of the new file to stdout. Its format is llama.cpp's; it holds the experts' tensors alone.
    """
    from ..bundled import sample_text
    from ..evaluate import read_text, windows_of
    from ..pack.imatrix_file import write_imatrix
    from ..pack.paths import default_imatrix
    from ..tune.importance import products_of, record_importance

    options = common.ModelOptions.of(model_options)
    if options.lo is not None:
        raise UsageError("--lo has no meaning here: the importance matrix is of the model itself; leave it out.")
    options = dataclasses.replace(options, ctx=options.ctx or _DEFAULT_WINDOW, precision="exact")
    model_path = model_file(options.model)
    out = out or default_imatrix(model_path)
    text_paths = texts or (sample_text(),)
    datas = [read_text(path) for path in text_paths]
    llama = common.load_llama(options, logits_all=True)
    try:
        assert options.ctx is not None
        windows = [windows_of(llama, data, options.ctx, max_tokens=max_tokens) for data in datas]
        with progress_bar(f"measuring {model_path.name}") as progress:
            importance = record_importance(llama, windows, progress)
        write_imatrix(
            out,
            importance,
            products_of(llama),
            dataset=", ".join(path.name for path in text_paths),
            n_chunks=sum(len(w.inputs) for w in windows),
            chunk_tokens=options.ctx,
        )
    except OSError as error:
        raise UsageError(f"{str(out)!r} cannot be written: {error.strerror}; give another place with -o.") from error
    finally:
        llama.close()
    click.echo(os.fspath(out))
