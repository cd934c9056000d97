"""Gives an engine what it reads ahead with, from the files beside its model, and takes what it saw and learned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ._host import _core
from ._native_policies import to_native_hybrid, to_native_prefetch
from .errors import UsageError, as_sentence
from .policies import Prefetch
from .predict import Recording, load_hybrid, load_traces, save_traces


def give_prefetch(engine: _core.Engine, prefetch: Prefetch, *, is_trained: bool) -> None:
    """To be called before the budget is made: looking several layers ahead takes a little memory.

    `is_trained`: the engine has trained gates. Raises UsageError for a predictor that was not trained yet.
    """
    if prefetch.predictor == "request-trace":
        traces = engine.request_traces()
        for of_prompts, matrices in zip((True, False), load_traces(engine.paths, traces.n_cells), strict=True):
            for counts in matrices:
                traces.add(of_prompts, counts)
    elif prefetch.predictor == "trained-gates" and not is_trained:
        raise UsageError(
            f"No gates were trained for {engine.paths[0]!r} yet; 'hobbit tune --predictor-only' does that."
        )
    elif prefetch.predictor == "hybrid":
        maps = load_hybrid(engine.paths)
        if maps is None:
            raise UsageError(
                f"The hybrid predictor was not trained for {engine.paths[0]!r} yet; 'hobbit tune --predictor-only' "
                f"does that."
            )
        try:
            engine.set_hybrid_weights(to_native_hybrid(maps))
        except ValueError as error:
            raise UsageError(as_sentence(str(error))) from None
    engine.set_prefetch(to_native_prefetch(prefetch))


def record_predictions(engine: _core.Engine) -> Callable[[], Recording]:
    """Begins to record what predictors see; returns how to end that."""
    record = _core.PredictionRecord()
    engine.set_prediction_record(record)

    def end() -> Recording:
        engine.set_prediction_record(None)
        return Recording(*record.take()[:2])

    return end


def keep_traces(engine: _core.Engine) -> None:
    """Stores what the predictor "request-trace" learned of requests."""
    traces = engine.request_traces()
    with contextlib.suppress(OSError):  # a read-only folder: the next run starts with nothing
        save_traces(engine.paths, traces.matrices(True), traces.matrices(False))
