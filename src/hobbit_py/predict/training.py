"""Trains the hybrid predictor: a ridge model of how far stacked gates are off, and why.

ExpertFlow (arXiv 2510.26730, section on the hybrid predictor) corrects the router of a later layer, applied early, by a
random forest on the token and on what was activated before. The features here are the same, the model is linear: it
costs a few rows of additions a token, and csrc/predict/hybrid.cpp applies it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
HEAD = 4  # columns before the experts: pass number, place in the batch, layer, token


@dataclass(frozen=True)
class Recording:
    """Of what `PredictionRecord.take()` gives, selections [n, 4 + n_used] and gates [n, n_ahead, n_expert]."""

    selections: npt.NDArray[np.int32]
    gates: npt.NDArray[np.float32]

    @property
    def n_used(self) -> int:
        """Experts that a token uses of a layer."""
        return int(self.selections.shape[1]) - HEAD


@dataclass(frozen=True)
class HybridMaps:
    """Shifts of logits [n_features, n_expert] by (layer, distance); `token_rows` [n_vocab] is each token's feature."""

    token_rows: npt.NDArray[np.int32]
    n_token_rows: int
    shifts: dict[tuple[int, int], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class _Pairs:
    """One layer seen from one distance: what was known at the source, and what the target then selected."""

    logits: Floats  # [n, n_expert] of the target's router at the source
    source: npt.NDArray[np.int32]  # [n, n_used]
    target: npt.NDArray[np.int32]  # [n, n_used]
    previous: npt.NDArray[np.int32]  # [n, n_used] of the target layer, for the token before; -1: there was none
    tokens: npt.NDArray[np.int32]  # [n]


def fit_hybrid(recording: Recording, n_vocab: int, *, n_token_rows: int = 256, ridge: float = 30.0) -> HybridMaps:
    """Fits the correction for every layer and distance in the recording.

    The target of the fit is the error of a probability: whether an expert was selected, minus a logistic curve of how
    far its logit lies above the line between selected and not. Divided by the curve's steepest slope it is a shift of
    the logit, which is what is stored.

    Args:
        recording: Passes of one token each, in order.
        n_vocab: Size of the vocabulary.
        n_token_rows: The most frequent tokens, one less than this, get a feature of their own; all others share one.
        ridge: Weight of the penalty on large corrections, in tokens.
    """
    token_rows = _frequent(recording.selections[:, 3], n_vocab, n_token_rows)
    shifts = {}
    for layer, distance in _targets(recording):
        pairs = _pairs(recording, layer, distance)
        shifts[layer, distance] = _fit(pairs, token_rows, n_token_rows, ridge)
    return HybridMaps(token_rows, n_token_rows, shifts)


def recall(recording: Recording, maps: HybridMaps | None, distance: int) -> float:
    """Share of the experts selected that are among as many best guesses, `distance` layers ahead."""
    n_found = n_selected = 0
    for layer, d in _targets(recording):
        if d != distance:
            continue
        pairs = _pairs(recording, layer, distance)
        logits = pairs.logits
        if maps is not None and (layer, distance) in maps.shifts:
            features = _features(pairs, maps.token_rows, maps.n_token_rows)
            logits = logits + features @ maps.shifts[layer, distance]
        guessed = np.argsort(-logits, axis=1, kind="stable")[:, : pairs.target.shape[1]]
        n_found += int((guessed[:, :, None] == pairs.target[:, None, :]).sum())
        n_selected += pairs.target.size
    return n_found / n_selected if n_selected else 0.0


def _targets(recording: Recording) -> list[tuple[int, int]]:
    layers = np.unique(recording.selections[:, 2])
    n_ahead = recording.gates.shape[1]
    return [(int(layers[i]), d) for i in range(len(layers)) for d in range(1, min(i, n_ahead) + 1)]


def _pairs(recording: Recording, layer: int, distance: int) -> _Pairs:
    selections, n_used = recording.selections, recording.n_used
    layers = np.unique(selections[:, 2])
    source_layer = layers[np.searchsorted(layers, layer) - distance]
    is_target, is_source = selections[:, 2] == layer, selections[:, 2] == source_layer
    targets = {(int(r[0]), int(r[1])): r[HEAD:] for r in selections[is_target]}
    sources, gates = selections[is_source], recording.gates[is_source, distance - 1]
    kept = [i for i, row in enumerate(sources) if (int(row[0]), int(row[1])) in targets and not np.isnan(gates[i, 0])]
    nobody = np.full(n_used, -1, np.int32)
    keys = [(int(sources[i, 0]), int(sources[i, 1])) for i in kept]
    # Only the first token of a batch knows what the one before it selected.
    before = {number: targets[number, place] for number, place in sorted(targets)}
    previous = [before.get(number - 1, nobody) if place == 0 else nobody for number, place in keys]
    return _Pairs(
        logits=gates[kept][:, ~np.isnan(gates[kept]).any(axis=0)].astype(np.float64),
        source=sources[kept, HEAD:],
        target=np.stack([targets[key] for key in keys]) if keys else np.zeros((0, n_used), np.int32),
        previous=np.stack(previous) if previous else np.zeros((0, n_used), np.int32),
        tokens=sources[kept, 3],
    )


def _frequent(tokens: npt.NDArray[np.int32], n_vocab: int, n_rows: int) -> npt.NDArray[np.int32]:
    rows = np.full(n_vocab, n_rows - 1, np.int32)
    counts = np.bincount(tokens[(tokens >= 0) & (tokens < n_vocab)], minlength=n_vocab)
    best = np.argsort(-counts, kind="stable")[: n_rows - 1]
    rows[best] = np.arange(len(best), dtype=np.int32)
    return rows


def _features(pairs: _Pairs, token_rows: npt.NDArray[np.int32], n_token_rows: int) -> npt.NDArray[np.float32]:
    """[n, n_expert + n_expert + n_token_rows + 1], in the order of `HybridMap::shifts`."""
    n, n_expert = pairs.logits.shape
    features = np.zeros((n, 2 * n_expert + n_token_rows + 1), np.float32)
    rows = np.arange(n)[:, None]
    features[rows, pairs.source] = 1
    known = np.flatnonzero(pairs.previous[:, 0] >= 0)[:, None]
    features[known, n_expert + pairs.previous[known[:, 0]]] = 1
    known_tokens = np.where((pairs.tokens >= 0) & (pairs.tokens < len(token_rows)), pairs.tokens, -1)
    row_of = np.where(known_tokens >= 0, token_rows[known_tokens], n_token_rows - 1)
    features[rows[:, 0], 2 * n_expert + row_of] = 1
    features[:, -1] = 1
    return features


def _fit(pairs: _Pairs, token_rows: npt.NDArray[np.int32], n_token_rows: int, ridge: float) -> npt.NDArray[np.float32]:
    n, n_expert = pairs.logits.shape
    n_used = pairs.target.shape[1]
    selected = np.zeros((n, n_expert))
    selected[np.arange(n)[:, None], pairs.target] = 1
    ordered = -np.sort(-pairs.logits, axis=1)
    line = (ordered[:, n_used - 1] + ordered[:, min(n_used, n_expert - 1)]) / 2
    above = pairs.logits - line[:, None]
    slope, offset = _logistic(above.ravel(), selected.ravel())
    error = selected - 1 / (1 + np.exp(-(slope * above + offset)))
    features = _features(pairs, token_rows, n_token_rows).astype(np.float64)
    gram = features.T @ features + ridge * np.eye(features.shape[1])
    shifts = np.linalg.solve(gram, features.T @ error) * (4 / slope)
    return shifts.astype(np.float32)


def _logistic(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and offset of the logistic curve that fits best, by Newton's method."""
    weights = np.array([1.0, 0.0])
    design = np.stack([x, np.ones_like(x)], axis=1)
    for _ in range(25):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (y - p))
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return max(float(weights[0]), 1e-3), float(weights[1])
