"""Measures candidate thresholds on a text and takes the one that reads least within the allowed loss.

Every candidate is a teacher-forced run from a cold cache over the tokens that exact mode ran over. Raising T1 reads
more and loses less, and skipping and the split of the memory matter less than T1: so the search goes along one of these
at a time, which takes a handful of runs where the whole grid would take dozens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..evaluate import Evaluation, Reference, Windows, evaluate
from ..policies import HobbitThresholds
from .routing import MixThresholds, mix_thresholds, record_scores
from .stored import Tuning

if TYPE_CHECKING:
    from ..llama import Llama

LO_SHARES = (0.25, 0.5, 0.75)
_FIRST_LO_SHARE = 0.5
_SKIP_BEYOND = 0.9  # the T2 of the HOBBIT paper
_MAX_RUNS = 10  # of the ladder below, exact mode and the recording of the router


@dataclass(frozen=True)
class Candidate:
    """Settings of mixed mode."""

    t1: float
    t2: float
    lo_share: float


@dataclass(frozen=True)
class Measured:
    """What a candidate costs and saves against exact mode; see Tuning."""

    candidate: Candidate
    loss: float
    loss_se: float
    kl_mean: float
    bytes_ratio: float


@dataclass(frozen=True)
class TuneResult:
    """The choice, and everything that it was chosen from."""

    tuning: Tuning
    mix: MixThresholds
    measured: tuple[Measured, ...]
    lo_path: str
    model_paths: tuple[str, ...]


def search(
    mix: MixThresholds, measure: Callable[[Candidate], Measured], max_loss: float
) -> tuple[Measured | None, list[Measured]]:
    """The cheapest candidate within max_loss, None if there is none, and all that were measured."""
    measured: list[Measured] = []

    def within(candidate: Candidate) -> bool:
        measured.append(measure(candidate))
        return measured[-1].loss <= max_loss

    found = next((c for c in _ladder(mix) if within(c)), None)
    if found is not None:
        for t2 in sorted({mix.t2, _SKIP_BEYOND}, reverse=True):
            # Skipping costs more the lower its threshold: what fails, fails below as well.
            if found.t1 < t2 < 1 and not within(replace(found, t2=t2)):
                break
        best = _cheapest(measured, max_loss)
        assert best is not None
        for lo_share in LO_SHARES:
            if lo_share != _FIRST_LO_SHARE:
                within(replace(best.candidate, lo_share=lo_share))
    return _cheapest(measured, max_loss), measured


def tune(
    open_llama: Callable[..., Llama],
    windows_of: Callable[[Llama], Windows],
    *,
    max_loss: float,
    progress: Callable[[float], None] | None = None,
) -> TuneResult:
    """Finds the thresholds of one model with one lo copy.

    Args:
        open_llama: Loads the model with further keywords of hobbit_py.Llama; its memory must be too small for all
            experts.
        windows_of: Cuts the text.
        max_loss: Perplexity that may be lost against exact mode, 0.01 for 1%.
        progress: Called with the fraction of all runs done.

    Raises:
        UsageError: There is no lo copy, or every expert fits in the memory.
    """
    n_done = 0

    def run(
        llama: Llama, windows: Windows, *, against: Reference | None = None, record: Reference | None = None
    ) -> Evaluation:
        nonlocal n_done

        def on_progress(fraction: float) -> None:
            if progress is not None:
                progress(min(1.0, (n_done + fraction) / _MAX_RUNS))

        evaluation = evaluate(llama, windows, against=against, record=record, progress=on_progress)
        n_done += 1
        return evaluation

    llama = open_llama(precision="mixed")
    try:
        windows = windows_of(llama)
        scores = record_scores(llama, windows)
        if not scores.size:
            raise UsageError("This model has no router whose weights hobbit knows: it always runs in exact mode.")
        mix, lo_path, model_paths = mix_thresholds(scores), llama.lo_path, llama.model_paths
        n_scored, n_vocab = windows.n_scored, llama.n_vocab()
        assert lo_path is not None
    finally:
        llama.close()

    with Reference(n_scored, n_vocab) as reference:
        llama = open_llama(precision="exact")
        try:
            exact = run(llama, windows, record=reference)
            expert_memory_bytes = llama.stats().expert_memory_bytes
        finally:
            llama.close()
        if exact.stats.n_evictions == 0 and exact.stats.n_streamed == 0:
            raise UsageError(
                "Every expert that the text needs fits in the memory granted, so mixed precision has nothing to save; "
                "give the --memory or --expert-memory that the model will run with."
            )

        def measure(candidate: Candidate) -> Measured:
            policy = HobbitThresholds(candidate.t1, candidate.t2)
            llama = open_llama(precision="mixed", policy=policy, lo_share=candidate.lo_share)
            try:
                evaluation = run(llama, windows, against=reference)
            finally:
                llama.close()
            assert evaluation.divergence is not None
            return Measured(
                candidate,
                loss=evaluation.divergence.loss,
                loss_se=evaluation.divergence.loss_se,
                kl_mean=evaluation.divergence.kl_mean,
                bytes_ratio=evaluation.read_bytes_per_token / exact.read_bytes_per_token,
            )

        chosen, measured = search(mix, measure, max_loss)

    if chosen is None:  # exact mode: hi for everything, all memory for hi
        chosen = Measured(Candidate(1.0, 1.0, 0.0), loss=0.0, loss_se=0.0, kl_mean=0.0, bytes_ratio=1.0)
    tuning = Tuning(
        t1=chosen.candidate.t1,
        t2=chosen.candidate.t2,
        lo_share=chosen.candidate.lo_share,
        loss=chosen.loss,
        loss_se=chosen.loss_se,
        bytes_ratio=chosen.bytes_ratio,
        tokens=windows.n_tokens,
        max_loss=max_loss,
        expert_memory_bytes=expert_memory_bytes,
    )
    return TuneResult(tuning, mix, tuple(measured), lo_path, model_paths)


def _ladder(mix: MixThresholds) -> Iterator[Candidate]:
    """Thresholds without skipping, from the one that reads least: 0 is hi for the best expert alone."""
    for t1 in sorted({0.0, mix.t1 / 2, mix.t1, (1 + mix.t1) / 2}):
        if t1 < 1:
            yield Candidate(t1, 1.0, _FIRST_LO_SHARE)


def _cheapest(measured: list[Measured], max_loss: float) -> Measured | None:
    return min((m for m in measured if m.loss <= max_loss), key=lambda m: m.bytes_ratio, default=None)
