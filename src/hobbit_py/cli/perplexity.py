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
from . import common, values
from .checks import check_options

if TYPE_CHECKING:
    from ..evaluate import Evaluation, Reference, Windows
    from ..llama import Llama
    from .mixed_options import MixedOptions

_DEFAULT_WINDOW = 512
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


def _own_keywords(
    mixed: MixedOptions, t1: float | None, t2: float | None, *, skip_renorm: bool
) -> tuple[list[str], dict[str, Any]]:
    """The options that only this command has and that were given, and keywords of hobbit_py.Llama for them."""
    from ..policies import HobbitThresholds

    names = [name for name, value in (("--t1", t1), ("--t2", t2)) if value is not None]
    keywords: dict[str, Any] = {}
    if names:
        if mixed.policy is not None:
            raise UsageError(
                "--hi-above, --fall, --wait-above and --skip-below judge an expert by its own weight, --t1 and --t2 by "
                "that of the better ones: give one kind."
            )
        keywords["policy"] = HobbitThresholds(0.0 if t1 is None else t1, 1.0 if t2 is None else t2)
    if skip_renorm:
        names.append("--skip-renorm")
        keywords["skip_renorm"] = True
    return names, keywords


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

        with self._loaded(self.options.exact()) as (llama, windows):
            reference = Reference(windows.n_scored, llama.n_vocab())
            try:
                self._evaluate(llama, windows, "exact mode", record=reference)
            except BaseException:
                reference.close()
                raise
            return reference

    def measured(self, keywords: dict[str, Any], against: Reference | None) -> tuple[Evaluation, str]:
        """The run asked for, with further keywords of hobbit_py.Llama, and its precision."""
        with self._loaded(self.options, **keywords) as (llama, windows):
            precision = llama.stats().precision
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
    "--t1",
    type=click.FloatRange(0, 1),
    callback=values.finite,
    metavar="X",
    help="HOBBIT's: weight of the better experts up to which a miss is read in hi. [default with --t2: 0]",
)
@click.option(
    "--t2",
    type=click.FloatRange(0, 1),
    callback=values.finite,
    metavar="X",
    help="HOBBIT's: weight of the better experts beyond which a miss is skipped. [default with --t1: 1]",
)
@click.option("--skip-renorm", is_flag=True, help="Let other experts make up for a skipped one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    text: Path,
    against: str | None,
    max_tokens: int | None,
    chunked: bool,
    t1: float | None,
    t2: float | None,
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
    own_names, own_keywords = _own_keywords(options.mixed, t1, t2, skip_renorm=skip_renorm)
    check_options(options, [*options.mixed.names, *own_names])
    options = dataclasses.replace(options, ctx=options.ctx or _DEFAULT_WINDOW)
    run = _Run(read_text(text), options, max_tokens, chunked)
    with contextlib.ExitStack() as stack:
        reference = None
        if against is not None:
            reference = stack.enter_context(run.exact())
        evaluation, precision = run.measured(own_keywords, reference)
    figures = report(evaluation, precision)
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for sentence in _sentences(figures):
            click.echo(sentence)
