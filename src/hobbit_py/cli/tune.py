"""`hobbit tune`: what suits a model: thresholds of mixed precision, the eviction policy, a trained predictor."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import common
from .checks import has_experts
from .hub_models import model_file
from .perplexity import progress_bar

if TYPE_CHECKING:
    from ..evaluate import Windows
    from ..llama import Llama
    from ..train_predictor import TrainedPredictor
    from ..tune import EvictionTuning, Tuning
    from ..tune.candidate import Candidate, Measured
    from ..tune.search import TuneResult

_DEFAULT_WINDOW = 512
_DEFAULT_TOKENS = 1024
_DEFAULT_TRAINING_TOKENS = 4000


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
    deeper = f", {c.reroute_fall:.3f} less per layer" if c.reroute_fall else ""
    reroutes = f", reroutes below {c.reroute_below:.2f}{deeper}" if c.reroute_below else ""
    if c.is_lo_alone:
        return f"lo copies alone{reroutes}"
    return (
        f"hi above {c.hi_above:.2f}{falls}, waits {waits}, skip below {c.skip_below:.2f}, lo share {c.lo_share:.2f}"
        f"{reroutes}"
    )


def _row(measured: Measured) -> str:
    c = measured.candidate
    return (
        f"  {_setting(c)}:  {100 * measured.loss:+.2f}% perplexity (standard error {100 * measured.loss_se:.2f}), "
        f"{measured.bytes_ratio:.2f} of the bytes, {measured.time_ratio:.2f} of the time"
    )


def _sentences(result: TuneResult) -> list[str]:
    tuning = result.tuning
    rows = [_row(measured) for measured in result.measured]
    if tuning.is_exact:
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
    "--tokens",
    "max_tokens",
    type=click.IntRange(min=64),
    help="Tokens of a run. [default: 1024; 4000 with --predictor-only]",
)
@click.option(
    "--try-rerouting",
    "reroute",
    is_flag=True,
    help="Also try whether a missing expert may give way to a resident one where that changes the layer's output "
    "little (--reroute-below and --reroute-fall of other commands). Changes which experts a token gets.",
)
@click.option("--eviction-only", is_flag=True, help="Find the eviction policy of exact mode alone: needs no lo copy.")
@click.option(
    "--predictor-only", is_flag=True, help="Train predictors: gates, and the hybrid that the preset expertflow needs."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    text: Path | None,
    max_loss: float,
    max_tokens: int | None,
    reroute: bool,
    eviction_only: bool,
    predictor_only: bool,
    as_json: bool,
    **model_options: object,
) -> None:
    """Find what mixed precision may save within a loss, and keep it beside the model for later runs.

    Measures a handful of settings against exact mode, token by token, with the memory given, and takes the one that is
    fastest by what it reads and waits for. Then replays what the model routed, and keeps the eviction policy that
    misses least, in exact and in mixed mode. Later runs in mixed mode use what was found, with --try-rerouting the
    rerouting as well; exact mode never reroutes. MODEL needs a lo copy, see 'hobbit pack', but for --eviction-only and
    --predictor-only.
    """
    from ..bundled import bundled_model, sample_text
    from ..evaluate import read_text, windows_of
    from ..tune import save_tuning
    from ..tune.search import tune, tune_eviction

    if eviction_only and predictor_only:
        raise UsageError("--eviction-only and --predictor-only exclude each other; give one after the other.")
    if reroute and (eviction_only or predictor_only):
        raise UsageError("--try-rerouting is for mixed mode, which --eviction-only and --predictor-only leave out.")
    options = common.ModelOptions.of(model_options)
    model_path = model_file(options.model)
    if not has_experts(model_path):
        raise UsageError(f"{str(model_path)!r} has no experts, so there is nothing to tune.")
    options = options.untuned()
    options = dataclasses.replace(options, ctx=options.ctx or _DEFAULT_WINDOW)
    data = read_text(text or sample_text())
    if predictor_only:
        _train(options, data, max_tokens or _DEFAULT_TRAINING_TOKENS, as_json=as_json)
        return

    def open_llama(*, precision: str, **keywords: Any) -> Llama:  # noqa: ANN401
        opened = options.exact() if precision == "exact" else dataclasses.replace(options, precision=precision)
        return common.load_llama(opened, show=False, **keywords)

    def cut(llama: Llama) -> Windows:
        assert options.ctx is not None
        # All predictions but the first count: losses are differences on the same tokens, so a short context does no
        # harm, and half of the tokens would double the noise's variance.
        return windows_of(llama, data, options.ctx, max_tokens=max_tokens or _DEFAULT_TOKENS, first_scored=1)

    result = None
    with progress_bar(f"tuning {(options.model or bundled_model()).name}") as progress:
        if eviction_only:
            eviction, model_paths = tune_eviction(open_llama, cut, progress=progress)
            evictions: tuple[EvictionTuning, ...] = (eviction,)
        else:
            result = tune(open_llama, cut, max_loss=max_loss, reroute=reroute, progress=progress)
            evictions, model_paths = result.evictions, result.model_paths
    with _storing():
        path = save_tuning(
            model_paths,
            result.lo_path if result else None,
            result.tuning if result else None,
            evictions,
            hi_path=result.hi_path if result else None,
        )
    if as_json:
        by_precision = {eviction.precision: dataclasses.asdict(eviction) for eviction in evictions}
        click.echo(json.dumps((_report(result) if result else {}) | {"eviction": by_precision, "stored": str(path)}))
        return
    for sentence in _sentences(result) if result else []:
        click.echo(sentence)
    for eviction in evictions:
        weights = ", ".join(f"{name} {value:.2f}" for name, value in eviction.parameters.items())
        click.echo(
            f"Eviction in {eviction.precision} mode: {eviction.name}{f' ({weights})' if weights else ''}, "
            f"{eviction.miss_ratio - 1:+.1%} bytes missed against LRU."
        )
    click.echo(f"Stored in {path}.")


def _train(options: common.ModelOptions, data: bytes, n_tokens: int, *, as_json: bool) -> None:
    from ..train_predictor import PREDICTION, train_on

    options = dataclasses.replace(options.exact(), no_prefetch=False)
    llama = common.load_llama(options, show=False, n_batch=1, prefetch=PREDICTION)
    try:
        with progress_bar(f"training for {Path(llama.model_paths[0]).name}") as progress, _storing():
            trained = train_on(llama, data, n_tokens, progress)
    finally:
        llama.close()
    if as_json:
        paths = {"path": str(trained.path), "gates_path": str(trained.gates_path)}
        click.echo(json.dumps(dataclasses.asdict(trained) | paths))
        return
    for sentence in _of_training(trained):
        click.echo(sentence)


def _of_training(trained: TrainedPredictor) -> list[str]:
    def percents(recalls: Sequence[float]) -> str:
        return " / ".join(f"{100 * recall:.1f}" for recall in recalls)

    return [
        f"Trained on {trained.n_tokens} tokens. Of the experts of layers 1 / 2 / 3 ahead, stacked gates guess "
        f"{percents(trained.recall_gates)}% right, trained gates {percents(trained.recall_trained)}% and the hybrid "
        f"{percents(trained.recall_hybrid)}%, on the last fifth of the tokens, which was not trained on.",
        f"Stored in {trained.gates_path} and {trained.path}.",
    ]


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"The result cannot be stored beside the model: {error.strerror}; tune a copy of it in a folder that you "
            f"can write to."
        ) from error


def _report(result: TuneResult) -> dict[str, Any]:
    return {
        **dataclasses.asdict(result.tuning),
        "mix": dataclasses.asdict(result.mix),
        "measured": [
            dataclasses.asdict(m.candidate) | {k: v for k, v in dataclasses.asdict(m).items() if k != "candidate"}
            for m in result.measured
        ],
    }
