"""Trains the hybrid predictor of a model on a text, and keeps it beside the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError
from .llama import Llama
from .policies import Prefetch
from .predict import Recording, fit_hybrid, recall, save_hybrid

_N_AHEAD = 3
DEFAULT_SEQUENCE = 512
MIN_TOKENS = 512
_HELD_OUT = 0.2


@dataclass(frozen=True)
class TrainedPredictor:
    """Where it is, and the recall of gates and hybrid one, two and three layers ahead on tokens not trained on."""

    path: Path
    n_tokens: int
    recall_gates: tuple[float, ...]
    recall_hybrid: tuple[float, ...]


PREDICTION = Prefetch("stacked-gates", "fixed", _N_AHEAD)
"""What a model must read ahead with to be trained on."""


def train_predictor(
    model_path: str | os.PathLike[str], text: str, *, n_tokens: int = 4000, memory: int | str = "auto"
) -> TrainedPredictor:
    """Evaluates `text` token by token, fits the correction of the gates to it, and writes it beside the model.

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
    end = llama.record_predictions()
    for first in range(0, len(tokens), n_ctx):
        llama.reset()
        for n_done, token in enumerate(tokens[first : first + n_ctx], first + 1):
            llama.eval([token])
            if progress is not None:
                progress(n_done / len(tokens))
    recording = end()
    if len(recording.selections) == 0:
        raise UsageError("Nothing was predicted: layers are predicted on the CPU alone, for routers of one size.")
    is_trained = recording.selections[:, 0] <= recording.selections[:, 0].max() * (1 - _HELD_OUT)
    trained = Recording(recording.selections[is_trained], recording.gates[is_trained])
    held_out = Recording(recording.selections[~is_trained], recording.gates[~is_trained])
    maps = fit_hybrid(trained, llama.n_vocab())
    distances = range(1, _N_AHEAD + 1)
    return TrainedPredictor(
        path=save_hybrid(llama.model_paths, maps),
        n_tokens=len(tokens),
        recall_gates=tuple(recall(held_out, None, d) for d in distances),
        recall_hybrid=tuple(recall(held_out, maps, d) for d in distances),
    )
