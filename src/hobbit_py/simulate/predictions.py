"""What a predictor would have said at each step of a trace, and how much of it was right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..policies.presets import Preset
from .trace import MAX_DISTANCE, Trace

SIMULATED: Final = ("none", "stacked-gates", "trained-gates", "previous-token", "oracle")


@dataclass(frozen=True)
class Guesses:
    """Predictions made at each step, the nearest layer first.

    layers [n_steps, n_guesses], -1 where there is none; expert_idxs and weights [n_tokens, n_steps, n_guesses, n_used],
    an index of -1 where nothing is predicted. With stop_at_gap a step's guesses end with the first that misses.
    """

    layers: npt.NDArray[np.int32]
    expert_idxs: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    stop_at_gap: bool = False


def guesses_of(trace: Trace, preset: Preset) -> Guesses:
    """What the preset's predictor says; nothing for a predictor that cannot be had from the trace (`is_simulated`)."""
    n_tokens, n_steps, n_used = trace.expert_idxs.shape
    if (predicted := _of_layers_ahead(trace, preset)) is not None:
        depth = min(preset.depth or MAX_DISTANCE, MAX_DISTANCE)
        idxs, weights = predicted
        return Guesses(
            np.stack([_layers_ahead(trace, distance) for distance in range(1, depth + 1)], axis=1),
            np.ascontiguousarray(idxs[:, :, :depth]),
            np.ascontiguousarray(weights[:, :, :depth]),
            stop_at_gap=preset.horizon == "first-gap",
        )
    if preset.predictor == "previous-token":
        return Guesses(
            _layers_ahead(trace, 1)[:, None], _previous(trace)[:, :, None], _previous_weights(trace)[:, :, None]
        )
    empty = (n_tokens, n_steps, 0, n_used)
    return Guesses(np.empty((n_steps, 0), np.int32), np.empty(empty, np.int32), np.empty(empty, np.float32))


def recall_by_distance(trace: Trace, preset: Preset) -> list[float]:
    """Share of the experts used that had been predicted 1, 2 and 3 layers before; empty without predictions."""
    if (ahead := _of_layers_ahead(trace, preset)) is not None:
        idxs = ahead[0]
        return [
            _recall(idxs[:, :-distance, distance - 1], trace.expert_idxs[:, distance:])
            for distance in range(1, MAX_DISTANCE + 1)
            if distance < len(trace.layers)
        ]
    if preset.predictor == "previous-token":
        # The same whatever the distance.
        predicted = _previous(trace)
        return [
            _recall(predicted[:, :-1], trace.expert_idxs[:, 1:])
            for distance in range(1, MAX_DISTANCE + 1)
            if distance < len(trace.layers)
        ]
    return []


def is_simulated(trace: Trace, preset: Preset) -> bool:
    """Whether the trace has what the preset's predictor would have said."""
    return preset.predictor in SIMULATED and (preset.predictor != "trained-gates" or trace.is_trained)


def _of_layers_ahead(trace: Trace, preset: Preset) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None:
    """Experts and weights that were predicted of each of the next layers; None where the predictor says nothing."""
    if preset.predictor == "oracle":
        return _coming(trace)
    if preset.predictor == "stacked-gates":
        return trace.predicted_idxs, trace.predicted_weights
    if preset.predictor == "trained-gates" and trace.trained_idxs is not None and trace.trained_weights is not None:
        return trace.trained_idxs, trace.trained_weights
    return None


def _recall(predicted: npt.NDArray[np.int32], used: npt.NDArray[np.int32]) -> float:
    """Both [n_tokens, n_steps, n_used]; rows without a prediction do not count."""
    is_predicted = predicted[..., 0] >= 0
    found = (used[..., :, None] == predicted[..., None, :]).any(axis=-1)
    return float(found[is_predicted].mean()) if is_predicted.any() else 0.0


def _layers_ahead(trace: Trace, distance: int) -> npt.NDArray[np.int32]:
    layers = np.full(len(trace.layers), -1, np.int32)
    if distance < len(layers):
        layers[:-distance] = trace.layers[distance:]
    return layers


def _coming(trace: Trace) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """What the token uses in the next steps, and its weights there; -1 and 0 after the last step."""
    idxs, weights = np.full_like(trace.predicted_idxs, -1), np.zeros_like(trace.predicted_weights)
    for distance in range(1, min(MAX_DISTANCE, len(trace.layers) - 1) + 1):
        idxs[:, :-distance, distance - 1] = trace.expert_idxs[:, distance:]
        weights[:, :-distance, distance - 1] = trace.weights[:, distance:]
    return idxs, weights


def _previous(trace: Trace) -> npt.NDArray[np.int32]:
    """What the token before used in the next step; -1 where a sequence begins and after the last step."""
    previous = np.full_like(trace.expert_idxs, -1)
    previous[1:, :-1] = trace.expert_idxs[:-1, 1:]
    previous[trace.sequence_starts] = -1
    return previous


def _previous_weights(trace: Trace) -> npt.NDArray[np.float32]:
    previous = np.zeros_like(trace.weights)
    previous[1:, :-1] = trace.weights[:-1, 1:]
    return previous
