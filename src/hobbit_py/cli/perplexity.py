"""`hobbit perplexity`: what a mode costs in accuracy, teacher-forced on a text."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..stats import format_share
from . import common

if TYPE_CHECKING:
    from ..evaluate import Evaluation, Reference, Windows
    from ..llama import Llama

_DEFAULT_WINDOW = 512
_MIXED_OPTIONS = "--hi-above, --fall, --wait-above, --skip-below, --t1, --t2, --lo-share and --skip-renorm"
_MAX_BATCH = 2048  # tokens of a batch with --chunked, as in llama-perplexity


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float], None] | None]:
    """A bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(description, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)


def report(evaluation: Evaluation, precision: str) -> dict[str, Any]:
    """What --json prints; figures that were not measured are None."""
    share_hi, share_lo, share_skip = evaluation.shares
    divergence = evaluation.divergence
    return {
        "perplexity": evaluation.perplexity,
        "loss": divergence.loss if divergence else None,
        "loss_se": divergence.loss_se if divergence else None,
        "kl_mean": divergence.kl_mean if divergence else None,
        "kl_p99": divergence.kl_p99 if divergence else None,
        "top1_agreement": divergence.top1_agreement if divergence else None,
        "share_hi": share_hi,
        "share_lo": share_lo,
        "share_skip": share_skip,
        "dropped_mass": evaluation.stats.dropped_mass,
        "read_bytes_per_token": evaluation.read_bytes_per_token,
        "hit_rate": evaluation.stats.measured_hit_rate,
        "tokens": evaluation.n_tokens,
        "tokens_scored": len(evaluation.nll),
        "tok_s": evaluation.n_tokens / evaluation.elapsed_s,
        "precision": precision,
    }


def _sentences(figures: dict[str, Any]) -> Iterator[str]:
    yield (
        f"perplexity {figures['perplexity']:.4f} over {figures['tokens_scored']} predictions "
        f"({figures['tokens']} tokens evaluated, {figures['tok_s']:.1f} tok/s)"
    )
    if figures["kl_mean"] is not None:
        yield (
            f"against exact: {100 * figures['loss']:+.2f}% perplexity (standard error {100 * figures['loss_se']:.2f}), "
            f"KL {figures['kl_mean']:.5f} mean, {figures['kl_p99']:.5f} p99, "
            f"top-1 agreement {figures['top1_agreement']:.1%}"
        )
    if figures["precision"] == "dense":
        return
    yield (
        f"{figures['precision']}: {figures['share_hi']:.1%} hi, {figures['share_lo']:.1%} lo, "
        f"{figures['share_skip']:.1%} skipped; {format_share(figures['hit_rate'])} hits, "
        f"{figures['read_bytes_per_token'] / 1e6:.2f} MB read a token"
    )


def _given(**options: float | None) -> dict[str, float]:
    return {name: value for name, value in options.items() if value is not None}


def _mixed_keywords(
    weights: dict[str, float], masses: dict[str, float], lo_share: float | None, skip_renorm: bool
) -> dict[str, Any]:
    """Keywords of hobbit_py.Llama for the options that were given."""
    from ..policies import HobbitThresholds, WeightThresholds

    if weights and masses:
        raise UsageError(
            "--hi-above, --fall, --wait-above and --skip-below judge an expert by its own weight, --t1 and --t2 by "
            "that of the better ones: give one kind."
        )
    keywords: dict[str, Any] = {}
    if weights:
        keywords["policy"] = WeightThresholds(**{"hi_above": 0.0, **weights})
    if masses:
        keywords["policy"] = HobbitThresholds(t1=masses.get("t1", 0.0), t2=masses.get("t2", 1.0))
    if lo_share is not None:
        keywords["lo_share"] = lo_share
    if skip_renorm:
        keywords["skip_renorm"] = True
    return keywords


@dataclass(frozen=True)
class _Run:
    """What both runs, in exact mode and in the mode asked for, have in common."""

    text: bytes
    options: common.ModelOptions
    max_tokens: int | None
    chunked: bool

    def exact(self) -> Reference:
        """Predictions of exact mode, for the caller to close."""
        from ..evaluate import Reference

        with self._loaded(dataclasses.replace(self.options.unfiltered(), precision="exact", lo=None, hi=None)) as (
            llama,
            windows,
        ):
            reference = Reference(windows.n_scored, llama.n_vocab())
            try:
                self._evaluate(llama, windows, "exact mode", record=reference)
            except BaseException:
                reference.close()
                raise
            return reference

    def measured(self, mixed_keywords: dict[str, Any], against: Reference | None) -> tuple[Evaluation, str]:
        """The run asked for, and its precision."""
        with self._loaded(self.options, **mixed_keywords) as (llama, windows):
            precision = llama.stats().precision
            if mixed_keywords and precision != "mixed":
                raise UsageError(
                    f"{_MIXED_OPTIONS} need a lo copy and this model has none; make one with 'hobbit pack', or name "
                    f"one with --lo."
                )
            return self._evaluate(llama, windows, f"{precision} mode", against=against), precision

    @contextlib.contextmanager
    def _loaded(self, options: common.ModelOptions, **keywords: Any) -> Iterator[tuple[Llama, Windows]]:  # noqa: ANN401
        from ..evaluate import windows_of

        assert options.ctx is not None
        if self.chunked:
            keywords |= {"logits_all": True, "n_batch": min(options.ctx, _MAX_BATCH)}
        llama = common.load_llama(options, **keywords)
        try:
            yield llama, windows_of(llama, self.text, options.ctx, max_tokens=self.max_tokens)
        finally:
            llama.close()

    def _evaluate(self, llama: Llama, windows: Windows, name: str, **references: Reference | None) -> Evaluation:
        from ..evaluate import evaluate

        with progress_bar(f"evaluating {name}") as progress:
            return evaluate(llama, windows, chunked=self.chunked, progress=progress, **references)


@click.command()
@common.loading_parameters
@click.option("--text", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The text to predict.")
@click.option("--against", type=click.Choice(["exact"]), help="Also compare with exact mode, token by token.")
@click.option("--tokens", "max_tokens", type=click.IntRange(min=8), metavar="N", help="Use the first N tokens.")
@click.option("--chunked", is_flag=True, help="Evaluate in batches: faster, but unlike decoding.")
@click.option(
    "--hi-above",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Gate weight from which on a miss is read in hi. [default with --skip-below: 0]",
)
@click.option(
    "--fall",
    type=float,
    metavar="X",
    help="By which --hi-above, that of the first layer, falls from each layer to the next. [default: 0]",
)
@click.option(
    "--wait-above",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Gate weight below which a resident lo copy serves where hi is wanted, which is then read in idle time. "
    "[default: 0]",
)
@click.option(
    "--skip-below",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Gate weight below which a miss is skipped. [default with --hi-above: 0]",
)
@click.option(
    "--t1",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="HOBBIT's: weight of the better experts up to which a miss is read in hi. [default with --t2: 0]",
)
@click.option(
    "--t2",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="HOBBIT's: weight of the better experts beyond which a miss is skipped. [default with --t1: 1]",
)
@click.option("--lo-share", type=click.FloatRange(0, 1), metavar="X", help="Share of the memory for lo copies.")
@click.option("--skip-renorm", is_flag=True, help="Let other experts make up for a skipped one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    text: Path,
    against: str | None,
    max_tokens: int | None,
    chunked: bool,
    hi_above: float | None,
    fall: float | None,
    wait_above: float | None,
    skip_below: float | None,
    t1: float | None,
    t2: float | None,
    lo_share: float | None,
    skip_renorm: bool,
    as_json: bool,
    **model_options: object,
) -> None:
    """Measure how well a model predicts a text, and with --against exact what a mode costs.

    The text is cut into windows of --ctx tokens (default 512), of which the second half is scored, as llama.cpp's
    llama-perplexity does. Tokens are evaluated one at a time, as when decoding; with --chunked in the batches of
    llama-perplexity, whose perplexity it then equals in exact mode.

    MODEL is a GGUF file, the first part of a split one, or nothing for the small bundled model.
    """
    from ..evaluate import read_text

    options = common.ModelOptions.of(model_options)
    weights = _given(hi_above=hi_above, fall=fall, wait_above=wait_above, skip_below=skip_below)
    mixed_keywords = _mixed_keywords(weights, _given(t1=t1, t2=t2), lo_share, skip_renorm)
    if mixed_keywords and options.precision == "exact":
        raise UsageError(f"{_MIXED_OPTIONS} have no meaning with --precision exact; leave them out.")
    options = dataclasses.replace(options, ctx=options.ctx or _DEFAULT_WINDOW)
    run = _Run(read_text(text), options, max_tokens, chunked)
    with contextlib.ExitStack() as stack:
        reference = None
        if against is not None:
            reference = stack.enter_context(run.exact())
        evaluation, precision = run.measured(mixed_keywords, reference)
    figures = report(evaluation, precision)
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for sentence in _sentences(figures):
            click.echo(sentence)
