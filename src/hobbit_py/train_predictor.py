"""Trains the hybrid predictor of a model on a text, and keeps it beside the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError
from .llama import Llama
from .policies import Prefetch
from .predict import Recording, fit_hybrid, recall, save_hybrid

_N_AHEAD = 3
_N_CTX = 512
_HELD_OUT = 0.2


@dataclass(frozen=True)
class TrainedPredictor:
    """Where it is, and the recall of gates and hybrid one, two and three layers ahead on tokens not trained on."""

    path: Path
    n_tokens: int
    recall_gates: tuple[float, ...]
    recall_hybrid: tuple[float, ...]


def train_predictor(
    model_path: str | os.PathLike[str], text: str, *, n_tokens: int = 4000, memory: int | str = "auto"
) -> TrainedPredictor:
    """Evaluates `text` token by token, fits the correction of the gates to it, and writes it beside the model.

    The last fifth of the tokens measures what was gained; the rest is trained on.

    Raises:
        UsageError: The text has too few tokens.
        OSError: The file beside the model cannot be written.
    """
    llama = Llama(
        model_path,
        memory=memory,
        precision="exact",
        n_ctx=_N_CTX,
        n_batch=1,
        prefetch=Prefetch("stacked-gates", "fixed", _N_AHEAD),
    )
    try:
        tokens = llama.tokenize(text.encode())[:n_tokens]
        if len(tokens) < _N_CTX:
            raise UsageError(f"The text has {len(tokens)} tokens; training a predictor takes at least {_N_CTX}.")
        end = llama.record_predictions()
        for first in range(0, len(tokens), _N_CTX):
            llama.reset()
            llama.eval(tokens[first : first + _N_CTX])
        recording = end()
        n_vocab, paths = llama.n_vocab(), llama.model_paths
    finally:
        llama.close()
    is_trained = recording.selections[:, 0] <= recording.selections[:, 0].max() * (1 - _HELD_OUT)
    trained = Recording(recording.selections[is_trained], recording.gates[is_trained])
    held_out = Recording(recording.selections[~is_trained], recording.gates[~is_trained])
    maps = fit_hybrid(trained, n_vocab)
    distances = range(1, _N_AHEAD + 1)
    return TrainedPredictor(
        path=save_hybrid(paths, maps),
        n_tokens=len(tokens),
        recall_gates=tuple(recall(held_out, None, d) for d in distances),
        recall_hybrid=tuple(recall(held_out, maps, d) for d in distances),
    )
