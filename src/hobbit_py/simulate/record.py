"""Records a trace from a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._host import _core
from ..errors import UsageError
from .trace import Trace

if TYPE_CHECKING:
    from ..evaluate import Windows
    from ..llama import Llama


def record_trace(llama: Llama, windows: Windows, *, progress: Callable[[float], None] | None = None) -> Trace:
    """Computes the windows token by token, each as a sequence of its own, and returns what was routed.

    Raises UsageError for a model without experts, or one whose layers do not route alike for every token.
    """
    engine = llama._engine
    if engine is None:
        raise UsageError("This model has no experts, so there is no routing to trace.")
    log = _core.RouteLog()
    tokens: list[int] = []
    starts: list[int] = []
    n_tokens = windows.n_tokens
    engine.set_route_log(log)
    try:
        for window in windows.inputs:
            llama.reset()
            starts.append(len(tokens))
            for token in window:
                llama.eval([token])
                tokens.append(token)
                if progress is not None:
                    progress(len(tokens) / n_tokens)
    finally:
        engine.set_route_log(None)
    layer_idxs = log.layer_idxs().astype(np.int32)
    n_steps, remainder = divmod(len(layer_idxs), len(tokens))
    if remainder or (layer_idxs.reshape(len(tokens), -1) != layer_idxs[:n_steps]).any():
        raise UsageError("This model's layers do not route alike for every token, so it cannot be traced.")
    shape = (len(tokens), n_steps)
    return Trace(
        model=Path(llama.model_paths[0]).name,
        alignment=engine.alignment,
        tokens=np.array(tokens, np.int32),
        sequence_starts=np.array(starts, np.int64),
        layers=layer_idxs[:n_steps],
        expert_idxs=log.expert_idxs().reshape(*shape, -1),
        weights=log.weights().reshape(*shape, -1),
        predicted_idxs=log.predicted_idxs().reshape(*shape, log.max_distance, -1),
        predicted_weights=log.predicted_weights().reshape(*shape, log.max_distance, -1),
        n_expert=np.array(engine.n_expert, np.int64),
        hi_part_bytes=_padded(engine.part_bytes(_core.Precision.hi), len(engine.n_expert)),
        lo_part_bytes=_padded(engine.part_bytes(_core.Precision.lo), len(engine.n_expert)),
    )


def _padded(part_bytes: Sequence[Sequence[int]], n_layers: int) -> npt.NDArray[np.int64]:
    """[n_layers, 3], 0 where a layer has fewer matrices."""
    padded = np.zeros((n_layers, 3), np.int64)
    for layer, of_layer in enumerate(part_bytes):
        padded[layer, : len(of_layer)] = of_layer
    return padded
