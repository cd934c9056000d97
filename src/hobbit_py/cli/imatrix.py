"""`hobbit imatrix`: the importance matrix that makes lo copies better."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import MemoryBudgetError, UsageError
from . import common
from .hub_models import model_file
from .perplexity import progress_bar

if TYPE_CHECKING:
    from ..llama import Llama

_DEFAULT_WINDOW = 512
_MOMENTS_SHARE = 1 / 8  # of the memory: what the experts lose by it costs time alone


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
    llama, max_moments_bytes = _load(options)
    try:
        assert options.ctx is not None
        windows = [windows_of(llama, data, options.ctx, max_tokens=max_tokens) for data in datas]
        with progress_bar(f"measuring {model_path.name}") as progress:
            importance = record_importance(llama, windows, progress, max_moments_bytes=max_moments_bytes)
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


def _load(options: common.ModelOptions) -> tuple[Llama, int]:
    """The model within the memory given, and how much of that is left for how inputs go together.

    If the model leaves nothing, that is not recorded.
    """
    from ..memory import auto_budget, parse_budget
    from ..tune.importance import MAX_MOMENTS_BYTES

    if options.expert_memory is not None:
        return common.load_llama(options, logits_all=True), MAX_MOMENTS_BYTES
    budget_bytes = parse_budget("auto" if options.memory is None else options.memory) or auto_budget()
    max_moments_bytes = min(MAX_MOMENTS_BYTES, int(budget_bytes * _MOMENTS_SHARE))
    with_room = dataclasses.replace(options, memory=budget_bytes - max_moments_bytes)
    try:
        return common.load_llama(with_room, logits_all=True), max_moments_bytes
    except MemoryBudgetError:
        return common.load_llama(options, logits_all=True), 0
