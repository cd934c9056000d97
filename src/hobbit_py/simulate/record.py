"""Records a trace from a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._host import _core
from ..errors import UsageError
from .trace import Trace

if TYPE_CHECKING:
    from ..evaluate import Windows
    from ..llama import Llama


class Recording:
    """Records what a model routes while it is entered; `trace` then says what that was.

    Tokens must be evaluated one at a time, and with a policy that changes no choice of the router.
    """

    def __init__(self, llama: Llama) -> None:
        """Raises UsageError for a model without experts."""
        if llama._engine is None:
            raise UsageError("This model has no experts, so there is no routing to trace.")
        self._engine = llama._engine
        self._model = Path(llama.model_paths[0]).name
        self._log = _core.RouteLog()

    def __enter__(self) -> Recording:
        """Begins to record."""
        self._engine.set_route_log(self._log)
        return self

    def __exit__(self, *_error: object) -> None:
        """Ends recording."""
        self._engine.set_route_log(None)

    def trace(self, windows: Windows) -> Trace:
        """The trace, after the windows were evaluated in order, each as a sequence of its own.

        Raises UsageError for a model whose layers do not route alike for every token.
        """
        tokens = [token for window in windows.inputs for token in window]
        lengths = [len(window) for window in windows.inputs]
        log, engine = self._log, self._engine
        layer_idxs = log.layer_idxs().astype(np.int32)
        n_steps, remainder = divmod(len(layer_idxs), len(tokens))
        if remainder or not n_steps or (layer_idxs.reshape(len(tokens), -1) != layer_idxs[:n_steps]).any():
            raise UsageError("This model's layers do not route alike for every token, so it cannot be traced.")
        shape = (len(tokens), n_steps)
        trained: dict[str, npt.NDArray[Any]] = {}
        if log.has_trained:
            trained["trained_idxs"] = log.trained_idxs().reshape(*shape, log.max_distance, -1)
            trained["trained_weights"] = log.trained_weights().reshape(*shape, log.max_distance, -1)
            trained["next_chances"] = log.next_chances().reshape(*shape, -1).astype(np.float16)
        return Trace(
            model=self._model,
            alignment=engine.alignment,
            tokens=np.array(tokens, np.int32),
            sequence_starts=np.cumsum([0, *lengths[:-1]], dtype=np.int64),
            layers=layer_idxs[:n_steps],
            expert_idxs=log.expert_idxs().reshape(*shape, -1),
            weights=log.weights().reshape(*shape, -1),
            predicted_idxs=log.predicted_idxs().reshape(*shape, log.max_distance, -1),
            predicted_weights=log.predicted_weights().reshape(*shape, log.max_distance, -1),
            n_expert=np.array(engine.n_expert, np.int64),
            hi_part_bytes=hi_part_bytes(engine),
            lo_part_bytes=lo_part_bytes(engine),
            **trained,
        )


def record_trace(llama: Llama, windows: Windows, *, progress: Callable[[float], None] | None = None) -> Trace:
    """Computes the windows token by token and returns what was routed; raises UsageError as `Recording`."""
    n_done = 0
    with Recording(llama) as recording:
        for window in windows.inputs:
            llama.reset()
            for token in window:
                llama.eval([token])
                n_done += 1
                if progress is not None:
                    progress(n_done / windows.n_tokens)
    return recording.trace(windows)


def hi_part_bytes(engine: _core.Engine) -> npt.NDArray[np.int64]:
    """Bytes of one expert's matrices in the hi copy, [n_layers, 3]."""
    return _padded(engine.part_bytes(_core.Precision.hi), len(engine.n_expert))


def lo_part_bytes(engine: _core.Engine) -> npt.NDArray[np.int64]:
    """Bytes of one expert's matrices in the lo copy, [n_layers, 3]; all 0 without one."""
    return _padded(engine.part_bytes(_core.Precision.lo), len(engine.n_expert))


def _padded(part_bytes: Sequence[Sequence[int]], n_layers: int) -> npt.NDArray[np.int64]:
    """[n_layers, 3], 0 where a layer has fewer matrices."""
    padded = np.zeros((n_layers, 3), np.int64)
    for layer, of_layer in enumerate(part_bytes):
        padded[layer, : len(of_layer)] = of_layer
    return padded
