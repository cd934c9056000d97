"""Trains gates: linear maps of a router's input that say more than the routers of later layers applied to it.

For each layer one matrix is fitted, by ridge regression. Its rows for the layers ahead are those layers' routers plus a
correction, so that few tokens do no harm; its rows for the layer itself give the chance that the next token uses each
expert. csrc/moe/gate_bank.h applies them, in the place of stacked routers, as one product a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .samples import RouterSamples

Floats = npt.NDArray[np.float32]
N_AHEAD = 3
_RIDGE = 0.15  # of the inputs' mean square: how strong the penalty on large corrections is


@dataclass(frozen=True)
class GateMap:
    """Rows [n_rows, n_embd] and biases [n_rows] of a layer: its own experts', then those of the layers ahead."""

    rows: npt.NDArray[np.float16]
    biases: Floats


@dataclass(frozen=True)
class TrainedGates:
    """The maps of all layers with experts; each tells of n_ahead layers, the last ones of fewer."""

    n_ahead: int
    maps: dict[int, GateMap]


def fit_gates(samples: RouterSamples, routers: Mapping[int, Floats], n_trained: int) -> TrainedGates:
    """Fits the maps to the first n_trained tokens.

    Args:
        samples: One token after the other, in sequences.
        routers: Of each layer with experts, [n_expert, n_embd], as applied to such inputs.
        n_trained: Tokens to be trained on.
    """
    layers = sorted(routers)
    has_next = samples.has_next()[:n_trained]
    has_next[-1:] = False  # the one after it is not to be trained on
    maps = {}
    for place, layer in enumerate(layers):
        inputs = samples.inputs(layer)[:n_trained][has_next]
        used = _one_hot(samples.selected(layer)[:n_trained], len(routers[layer]))
        targets = [used[1:][has_next[:-1]]]
        ahead = layers[place + 1 : place + 1 + N_AHEAD]
        for other in ahead:
            made = samples.logits(other)[:n_trained, : len(routers[other])][has_next]
            targets.append(made - inputs @ routers[other].T)
        rows, biases = _ridge(inputs, np.concatenate(targets, axis=1))
        for other, first in zip(ahead, _firsts([layer, *ahead], routers)[1:], strict=True):
            rows[first : first + len(routers[other])] += routers[other]
        maps[layer] = GateMap(rows.astype(np.float16), biases)
    return TrainedGates(N_AHEAD, maps)


def trained_recall(
    gates: TrainedGates, samples: RouterSamples, routers: Mapping[int, Floats], n_trained: int, distance: int
) -> float:
    """Share of the experts selected that are among as many best guesses, by the tokens not trained on."""
    layers = sorted(routers)
    n_found = n_selected = 0
    for source, target in zip(layers, layers[distance:], strict=False):
        inputs = samples.inputs(source)[n_trained:]
        chain = layers[layers.index(source) :][: distance + 1]
        first = _firsts(chain, routers)[-1]
        n_expert = len(routers[target])
        gate_map = gates.maps[source]
        logits = inputs @ gate_map.rows[first : first + n_expert].astype(np.float32).T
        logits += gate_map.biases[first : first + n_expert]
        completed = samples.completed(source, distance)[n_trained:, :n_expert]
        logits = _complete(logits, inputs @ routers[target].T, completed)
        selected = samples.selected(target)[n_trained:]
        guessed = np.argsort(-logits, axis=1, kind="stable")[:, : selected.shape[1]]
        n_found += int((guessed[:, :, None] == selected[:, None, :]).sum())
        n_selected += selected.size
    return n_found / n_selected if n_selected else 0.0


def _firsts(chain: list[int], routers: Mapping[int, Floats]) -> list[int]:
    """Where the rows of each of these layers begin in the map of the first."""
    return [0, *np.cumsum([len(routers[layer]) for layer in chain])[:-1].tolist()]


def _one_hot(selected: npt.NDArray[np.int32], n_expert: int) -> Floats:
    used = np.zeros((len(selected), n_expert), np.float32)
    np.put_along_axis(used, selected, 1.0, axis=1)
    return used


def _ridge(inputs: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Rows [n_targets, n_embd] and biases [n_targets]."""
    centre, middle = inputs.mean(axis=0), targets.mean(axis=0)
    centred = inputs - centre
    gram = (centred.T @ centred).astype(np.float64)
    gram[np.diag_indices_from(gram)] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    weights = np.linalg.solve(gram, (centred.T @ (targets - middle)).astype(np.float64)).astype(np.float32)
    return np.ascontiguousarray(weights.T), (middle - centre @ weights).astype(np.float32)


def _complete(logits: Floats, raw: Floats, completed: Floats) -> Floats:
    """What becomes of logits that a router's biases and sigmoid follow, by what became of others; each [n, n_expert].

    That is a rising curve for each expert, which `raw` and `completed` have points of.
    """
    result = np.empty_like(logits)
    for expert in range(logits.shape[1]):
        order = np.argsort(raw[:, expert])
        x, y = raw[order, expert], completed[order, expert]
        shift = logits[:, expert] - np.clip(logits[:, expert], x[0], x[-1])  # beyond what was seen: a straight line
        result[:, expert] = np.interp(logits[:, expert], x, y) + shift
    return result
