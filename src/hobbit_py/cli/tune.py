"""`hobbit tune`: the thresholds of mixed precision for a model, within a given loss."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import common
from .perplexity import progress_bar

if TYPE_CHECKING:
    from ..evaluate import Windows
    from ..llama import Llama
    from ..tune import Tuning
    from ..tune.search import Candidate, Measured, TuneResult

_DEFAULT_WINDOW = 512


def _percent(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        number = float(value.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise click.BadParameter(f"{value!r} is not a percentage such as 1%.", ctx, param)
    return number / 100


def _setting(c: Candidate | Tuning) -> str:
    waits = "never" if c.wait_above > 1 else f"above {max(c.hi_above, c.wait_above):.2f}"
    falls = f" ({c.tilt:+.0%} in the first layer, {-c.tilt:+.0%} in the last)" if c.tilt else ""
    return f"hi above {c.hi_above:.2f}{falls}, waits {waits}, skip below {c.skip_below:.2f}, lo share {c.lo_share:.2f}"


def _row(measured: Measured) -> str:
    c = measured.candidate
    return (
        f"  {_setting(c)}:  {100 * measured.loss:+.2f}% perplexity (standard error {100 * measured.loss_se:.2f}), "
        f"{measured.bytes_ratio:.2f} of the bytes, {measured.time_ratio:.2f} of the time"
    )


def _sentences(result: TuneResult) -> list[str]:
    tuning = result.tuning
    rows = [_row(measured) for measured in result.measured]
    if tuning.hi_above <= 0:
        return [*rows, f"No setting stays within {100 * tuning.max_loss:g}%: the model will run in exact mode."]
    return [
        *rows,
        f"Chosen: {_setting(tuning)}: {100 * tuning.loss:+.2f}% perplexity over {tuning.tokens} tokens, "
        f"{1 / max(tuning.bytes_ratio, 1e-9):.1f}x fewer bytes read than in exact mode, a token takes about "
        f"{tuning.time_ratio:.2f} of the time.",
    ]


@click.command()
@common.tuning_parameters
@click.option(
    "--text", type=click.Path(path_type=Path), metavar="FILE", help="Text like yours. [default: a bundled sample]"
)
@click.option(
    "--max-loss",
    default="1%",
    show_default=True,
    callback=_percent,
    metavar="PERCENT",
    help="Perplexity that may be lost against exact mode.",
)
@click.option(
    "--tokens", "max_tokens", type=click.IntRange(min=64), default=1024, show_default=True, help="Tokens of a run."
)
@click.option("--eviction-only", is_flag=True, help="Find the eviction policy of exact mode alone: needs no lo copy.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    text: Path | None,
    max_loss: float,
    max_tokens: int,
    eviction_only: bool,
    as_json: bool,
    **model_options: object,
) -> None:
    """Find what mixed precision may save within a loss, and keep it beside the model for later runs.

    Measures a handful of settings against exact mode, token by token, with the memory given, and takes the one that is
    fastest by what it reads and waits for. Then replays what the model routed, and keeps the eviction policy that
    misses least. MODEL needs a lo copy, see 'hobbit pack', or --eviction-only.
    """
    from ..bundled import bundled_model, sample_text
    from ..evaluate import read_text, windows_of
    from ..tune import save_tuning
    from ..tune.search import tune, tune_eviction

    options = common.ModelOptions.of(model_options)
    options = dataclasses.replace(options, ctx=options.ctx or _DEFAULT_WINDOW)
    data = read_text(text or sample_text())

    def open_llama(*, precision: str, **keywords: Any) -> Llama:  # noqa: ANN401
        lo = None if precision == "exact" else options.lo
        return common.load_llama(dataclasses.replace(options, precision=precision, lo=lo), show=False, **keywords)

    def cut(llama: Llama) -> Windows:
        assert options.ctx is not None
        # All predictions but the first count: losses are differences on the same tokens, so a short context does no
        # harm, and half of the tokens would double the noise's variance.
        return windows_of(llama, data, options.ctx, max_tokens=max_tokens, first_scored=1)

    result = None
    with progress_bar(f"tuning {(options.model or bundled_model()).name}") as progress:
        if eviction_only:
            eviction, model_paths = tune_eviction(open_llama, cut, progress=progress)
        else:
            result = tune(open_llama, cut, max_loss=max_loss, progress=progress)
            eviction, model_paths = result.eviction, result.model_paths
    try:
        path = save_tuning(model_paths, result.lo_path if result else None, result.tuning if result else None, eviction)
    except OSError as error:
        raise UsageError(
            f"The result cannot be stored beside the model: {error.strerror}; tune a copy of it in a folder that you "
            f"can write to."
        ) from error
    if as_json:
        click.echo(
            json.dumps(
                (_report(result) if result else {}) | {"eviction": dataclasses.asdict(eviction), "stored": str(path)}
            )
        )
        return
    for sentence in _sentences(result) if result else []:
        click.echo(sentence)
    weights = ", ".join(f"{name} {value:.2f}" for name, value in eviction.parameters.items())
    click.echo(
        f"Eviction: {eviction.name}{f' ({weights})' if weights else ''}, {eviction.miss_ratio - 1:+.1%} bytes missed "
        f"against LRU."
    )
    click.echo(f"Stored in {path}.")


def _report(result: TuneResult) -> dict[str, Any]:
    return {
        **dataclasses.asdict(result.tuning),
        "mix": dataclasses.asdict(result.mix),
        "measured": [
            dataclasses.asdict(m.candidate) | {k: v for k, v in dataclasses.asdict(m).items() if k != "candidate"}
            for m in result.measured
        ],
    }
