"""Trains the predictors of a model on a text, gates and the hybrid one, and keeps them beside the model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ._host import _core
from .errors import UsageError
from .llama import Llama
from .policies import Prefetch
from .predict import (
    N_AHEAD,
    Recording,
    RouterSamples,
    fit_gates,
    fit_hybrid,
    gates_path,
    recall,
    save_gates,
    save_hybrid,
    trained_recall,
)

_TAKEN_AT_ONCE = 64  # tokens
DEFAULT_SEQUENCE = 512
MIN_TOKENS = 512
_HELD_OUT = 0.2


@dataclass(frozen=True)
class TrainedPredictor:
    """Where they are, and their recall one, two and three layers ahead on tokens not trained on.

    recall_gates is that of stacked gates, which nobody trains.
    """

    path: Path
    gates_path: Path
    n_tokens: int
    recall_gates: tuple[float, ...]
    recall_hybrid: tuple[float, ...]
    recall_trained: tuple[float, ...]


PREDICTION = Prefetch("stacked-gates", "fixed", N_AHEAD)
"""What a model must read ahead with to be trained on."""


def train_predictor(
    model_path: str | os.PathLike[str], text: str, *, n_tokens: int = 4000, memory: int | str = "auto"
) -> TrainedPredictor:
    """Evaluates `text` token by token, fits both predictors to it, and writes them beside the model.

    The last fifth of the tokens measures what was gained; the rest is trained on.

    Raises:
        UsageError: The text has too few tokens.
        OSError: The file beside the model cannot be written.
    """
    llama = Llama(model_path, memory=memory, precision="exact", n_ctx=DEFAULT_SEQUENCE, n_batch=1, prefetch=PREDICTION)
    try:
        return train_on(llama, text.encode(), n_tokens)
    finally:
        llama.close()


def train_on(
    llama: Llama, text: bytes, n_tokens: int, progress: Callable[[float], None] | None = None
) -> TrainedPredictor:
    """As `train_predictor`, with a model that was loaded with PREDICTION, in exact mode.

    The text is evaluated in sequences as long as the context. `progress` is called with the fraction done.
    """
    n_ctx = llama.n_ctx()
    tokens = llama.tokenize(text)[:n_tokens]
    if len(tokens) < MIN_TOKENS:
        raise UsageError(f"The text has {len(tokens)} tokens; training a predictor takes at least {MIN_TOKENS}.")
    engine = llama._engine
    if engine is None:
        raise UsageError("This model has no experts: there is nothing to predict.")
    record = _core.PredictionRecord(keeps_inputs=True)
    samples = RouterSamples(gates_path(llama.model_paths[0]).parent, len(tokens), n_ctx)
    with contextlib.closing(samples):
        engine.set_prediction_record(record)
        try:
            for n_done, token in enumerate(tokens, 1):
                if (n_done - 1) % n_ctx == 0:
                    llama.reset()
                llama.eval([token])
                if progress is not None:
                    progress(n_done / len(tokens))
                if (n_done % _TAKEN_AT_ONCE == 0 or n_done == len(tokens)) and not samples.add(record.take()):
                    raise UsageError(
                        "Not every layer was seen: layers are predicted on the CPU alone, for routers of one size."
                    )
        finally:
            engine.set_prediction_record(None)
        return _fit(llama, samples, {layer: record.router(layer) for layer in samples.layers}, len(tokens))


def _fit(
    llama: Llama, samples: RouterSamples, routers: dict[int, npt.NDArray[np.float32]], n_tokens: int
) -> TrainedPredictor:
    n_trained = int(n_tokens * (1 - _HELD_OUT))
    gates = fit_gates(samples, routers, n_trained)
    distances = range(1, N_AHEAD + 1)
    recall_trained = tuple(trained_recall(gates, samples, routers, n_trained, d) for d in distances)
    recording = samples.recording()
    passes = recording.selections[:, 0] - recording.selections[0, 0]
    trained, held_out = (
        Recording(recording.selections[rows], recording.gates[rows])
        for rows in (passes < n_trained, passes >= n_trained)
    )
    maps = fit_hybrid(trained, llama.n_vocab())
    return TrainedPredictor(
        path=save_hybrid(llama.model_paths, maps),
        gates_path=save_gates(llama.model_paths, gates),
        n_tokens=n_tokens,
        recall_gates=tuple(recall(held_out, None, d) for d in distances),
        recall_hybrid=tuple(recall(held_out, maps, d) for d in distances),
        recall_trained=recall_trained,
    )
