"""Measures candidate thresholds on a text and takes the one that is fastest within the allowed loss.

Every candidate is a teacher-forced run from a cold cache over the tokens that exact mode ran over. How long its tokens
take is computed from the bytes that it read and waited for, and from the speeds of the drive and the cores in exact
mode: clocks are too noisy to tell candidates apart. What is wanted in hi and the memory for lo copies matter most, and
together: replays leave a line of both to search along (tune.frontier). Then follow whether the threshold falls with
depth, what waits, skipping and, if it is asked for, rerouting, one at a time: a handful of runs where the whole grid
would take dozens. Last come lo copies alone, by themselves and rerouted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..evaluate import Evaluation, Reference, Windows, evaluate
from ..policies import AlwaysHigh, Reroute
from ..simulate.record import Recording, hi_part_bytes, lo_part_bytes, record_trace
from .candidate import (
    NEVER_WAIT,
    REROUTE_TOLERANCES,
    TILTS,
    WIDE_TOLERANCES,
    Candidate,
    Measured,
    Rerouting,
    Speeds,
    lo_alone,
    rerouting_ladder,
)
from .eviction import search_eviction
from .frontier import find_frontier
from .routing import MixThresholds, hi_thresholds, mix_thresholds, record_weights, skip_thresholds
from .stored import EvictionTuning, Tuning

if TYPE_CHECKING:
    from ..llama import Llama

_MAX_RUNS = 16  # of the search, exact mode and the recording of the router
_MAX_REROUTED_RUNS = 10  # of the thresholds that were found one, one and four; four of lo copies alone


@dataclass(frozen=True)
class TuneResult:
    """The choice, and everything that it was chosen from."""

    tuning: Tuning
    mix: MixThresholds
    measured: tuple[Measured, ...]
    evictions: tuple[EvictionTuning, EvictionTuning]
    """Of exact and of mixed mode."""
    lo_path: str
    hi_path: str | None
    """Hi copies of their own; None: the experts of the model."""
    model_paths: tuple[str, ...]


def search(
    frontier: Sequence[Candidate],
    hi_ladder: Sequence[float],
    skip_ladder: Sequence[float],
    measure: Callable[[Candidate], Measured],
    max_loss: float,
    reroutings: Sequence[Rerouting] = (),
    lo_alone_reroutings: Sequence[Rerouting] = (),
) -> tuple[Measured | None, list[Measured]]:
    """The fastest candidate within max_loss, None if there is none, and all that were measured.

    Args:
        frontier: Candidates that read ever more and lose ever less: the first that may be expected to be within
            max_loss is found by bisection; where its own loss is an unlucky one, the next that is within counts.
        hi_ladder: Falling values of hi_above; those above the one found are values of wait_above to try.
        skip_ladder: Values of skip_below that cost ever more.
        measure: Runs one.
        max_loss: See `Measured.is_within`; 0.01 for 1%.
        reroutings: Ever wider ones; none: nothing is rerouted.
        lo_alone_reroutings: The same for lo copies alone.
    """
    found: dict[Candidate, Measured] = {}

    def measured(candidate: Candidate) -> Measured:
        if candidate not in found:
            found[candidate] = measure(candidate)
        return found[candidate]

    def within(candidate: Candidate) -> bool:
        return measured(candidate).is_within(max_loss)

    def fastest() -> Measured:
        # Of candidates that would take equally long, the one that reads least.
        allowed = [m for m in found.values() if m.is_within(max_loss)]
        return min(allowed, key=lambda m: (m.time_ratio, m.bytes_ratio))

    first, end = 0, len(frontier)
    while first < end:
        middle = (first + end) // 2
        if measured(frontier[middle]).expected_loss <= max_loss:
            end = middle
        else:
            first = middle + 1
    while first < len(frontier) and not within(frontier[first]):
        first += 1
    if first == len(frontier):
        return None, list(found.values())
    for tilt in TILTS[1:]:
        within(replace(frontier[first], tilt=tilt))
    best = fastest().candidate
    for wait_above in wait_ladder(hi_ladder, best.hi_above):
        if within(replace(best, wait_above=wait_above)):
            break
    best = fastest().candidate
    for skip_below in skip_ladder:
        if skip_below < best.hi_above and not within(replace(best, skip_below=skip_below)):
            break
    best = fastest().candidate
    behind = (replace(best, hi_above=c.hi_above, lo_share=c.lo_share) for c in frontier[first + 1 : first + 3])
    for candidate in (best, *behind):
        n_within = 0
        for rerouting in reroutings:
            if not within(candidate.rerouted(rerouting)):
                break
            n_within += 1
        if n_within:
            break
    for rerouting in (Rerouting(), *lo_alone_reroutings):
        if not within(lo_alone(rerouting)):
            break
    return fastest(), list(found.values())


def wait_ladder(hi_ladder: Sequence[float], hi_above: float) -> list[float]:
    """Values of wait_above to try, the first that is within the loss counts: never to wait, then three at most."""
    above = [h for h in hi_ladder if h > hi_above]
    step = max(1, -(-len(above) // 3))
    return [NEVER_WAIT, *above[step // 2 :: step]]


def tune(
    open_llama: Callable[..., Llama],
    windows_of: Callable[[Llama], Windows],
    *,
    max_loss: float,
    reroute: bool = False,
    progress: Callable[[float], None] | None = None,
) -> TuneResult:
    """Finds the thresholds of one model with one lo copy, and hi copies of their own if it is loaded with such.

    Args:
        open_llama: Loads the model with further keywords of hobbit_py.Llama; its memory must be too small for all
            experts.
        windows_of: Cuts the text.
        max_loss: Perplexity that a candidate may be expected to lose against exact mode, 0.01 for 1%.
        reroute: Whether a router filter may be chosen too, which changes the experts that a token gets.
        progress: Called with the fraction of all runs done.

    Raises:
        UsageError: There is no lo copy, every expert fits in the memory, or with hi copies of their own no setting
            stays within `max_loss`.
        HobbitError: `reroute` with a model whose router cannot be filtered.
    """
    n_done = 0
    n_runs = _MAX_RUNS + (_MAX_REROUTED_RUNS if reroute else 0)

    def run(
        llama: Llama, windows: Windows, *, against: Reference | None = None, record: Reference | None = None
    ) -> Evaluation:
        nonlocal n_done

        def on_progress(fraction: float) -> None:
            if progress is not None:
                progress(min(1.0, (n_done + fraction) / n_runs))

        evaluation = evaluate(llama, windows, against=against, record=record, progress=on_progress)
        n_done += 1
        return evaluation

    if reroute:
        _check_rerouting(open_llama)
    llama = open_llama(precision="mixed", policy=AlwaysHigh(), lo_share=0.0)  # nor a filter that was tuned before
    try:
        windows = windows_of(llama)
        weights = record_weights(llama, windows)
        if not weights.size:
            raise UsageError("This model has no router whose weights hobbit knows: it always runs in exact mode.")
        mix, lo_path, model_paths = mix_thresholds(weights), llama.lo_path, llama.model_paths
        hi_path = llama.hi_path
        has_own_hi = hi_path is not None
        assert llama._engine is not None
        hi_sizes, lo_sizes = hi_part_bytes(llama._engine), lo_part_bytes(llama._engine)
        n_layers = len(llama._engine.n_expert)
        n_scored, n_vocab = windows.n_scored, llama.n_vocab()
        assert lo_path is not None
    finally:
        llama.close()

    with Reference(n_scored, n_vocab) as reference:
        llama = open_llama(precision="exact")
        try:
            with Recording(llama) as recording:
                exact = run(llama, windows, record=reference)
            exact_trace = recording.trace(windows)
            trace = replace(exact_trace, hi_part_bytes=hi_sizes, lo_part_bytes=lo_sizes)
            expert_memory_bytes = llama.stats().expert_memory_bytes
            assert llama._engine is not None
            drive_bytes_s = llama._engine.drive_bytes_s()
        finally:
            llama.close()
        if exact.stats.n_evictions == 0 and exact.stats.n_streamed == 0:
            raise UsageError(
                "Every expert that the text needs fits in the memory granted, so mixed precision has nothing to save; "
                "give the --memory or --expert-memory that the model will run with."
            )

        speeds = Speeds(drive_bytes_s, (exact.elapsed_s - exact.stats.stall_us / 1e6) / exact.n_tokens)
        exact_s = _token_s(speeds, exact)

        def measure(candidate: Candidate) -> Measured:
            keywords: dict[str, Any] = {"policy": candidate.policy(n_layers), "lo_share": candidate.lo_share}
            if (router_filter := candidate.router_filter()) is not None:
                keywords["router_filter"] = router_filter
            llama = open_llama(precision="mixed", **keywords)
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
                time_ratio=_token_s(speeds, evaluation) / exact_s,
                has_own_hi=has_own_hi,
            )

        hi_ladder = hi_thresholds(weights, has_own_hi=has_own_hi)
        n_used = weights.shape[1]
        wide = rerouting_ladder(WIDE_TOLERANCES, n_used, n_layers)
        reroutings = wide if has_own_hi else rerouting_ladder(REROUTE_TOLERANCES, n_used, n_layers)
        chosen, measured = search(
            find_frontier(trace, expert_memory_bytes, hi_ladder, has_own_hi=has_own_hi),
            hi_ladder,
            skip_thresholds(weights),
            measure,
            max_loss,
            reroutings if reroute else (),
            wide if reroute else (),
        )

    if chosen is None and hi_path is not None:
        raise UsageError(
            f"No setting with the hi copies {hi_path!r} stays within {100 * max_loss:g}%; leave --hi out, or allow "
            f"more with --max-loss."
        )
    if chosen is None:  # exact mode: hi for everything, all memory for hi
        chosen = Measured(Candidate(0.0, 0.0, 0.0), loss=0.0, loss_se=0.0, kl_mean=0.0, bytes_ratio=1.0, time_ratio=1.0)
    tuning = Tuning(
        hi_above=chosen.candidate.hi_above,
        skip_below=chosen.candidate.skip_below,
        wait_above=chosen.candidate.wait_above,
        tilt=chosen.candidate.tilt,
        lo_share=chosen.candidate.lo_share,
        reroute_below=chosen.candidate.reroute_below,
        reroute_fall=chosen.candidate.reroute_fall,
        loss=chosen.loss,
        loss_se=chosen.loss_se,
        bytes_ratio=chosen.bytes_ratio,
        time_ratio=chosen.time_ratio,
        tokens=windows.n_tokens,
        max_loss=max_loss,
        expert_memory_bytes=expert_memory_bytes,
    )
    of_mixed = search_eviction(
        trace,
        expert_memory_bytes,
        precision=chosen.candidate.policy(n_layers),
        lo_share=tuning.lo_share,
    )
    evictions = (search_eviction(exact_trace, expert_memory_bytes), of_mixed)
    return TuneResult(tuning, mix, tuple(measured), evictions, lo_path, hi_path, model_paths)


def tune_eviction(
    open_llama: Callable[..., Llama],
    windows_of: Callable[[Llama], Windows],
    *,
    progress: Callable[[float], None] | None = None,
) -> tuple[EvictionTuning, tuple[str, ...]]:
    """The eviction policy for exact mode, and the model's paths; arguments as of `tune`.

    Raises:
        UsageError: Every expert fits in the memory.
    """
    llama = open_llama(precision="exact")
    try:
        trace = record_trace(llama, windows_of(llama), progress=progress)
        stats, model_paths = llama.stats(), llama.model_paths
    finally:
        llama.close()
    if stats.n_evictions == 0 and stats.n_streamed == 0:
        raise UsageError(
            "Every expert that the text needs fits in the memory granted, so there is nothing to evict; give the "
            "--memory or --expert-memory that the model will run with."
        )
    return search_eviction(trace, stats.expert_memory_bytes), model_paths


def _check_rerouting(open_llama: Callable[..., Llama]) -> None:
    """Computes a token with a filter, which raises HobbitError for a model that cannot have one."""
    llama = open_llama(precision="mixed", router_filter=Reroute(REROUTE_TOLERANCES[0]))
    try:
        llama.eval([0])
    finally:
        llama.close()


def _token_s(speeds: Speeds, evaluation: Evaluation) -> float:
    return speeds.token_s(evaluation.read_bytes_per_token, evaluation.stats.wanted_bytes / evaluation.n_tokens)
