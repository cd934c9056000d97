"""What the layers of a model saw and made of a text, for training; inputs lie in a file, since they are large."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .training import HEAD, Recording

Floats = npt.NDArray[np.float32]


class RouterSamples:
    """Rows of `PredictionRecord.take()`, by layer and token. Tokens are evaluated one at a time, a pass each.

    The inputs of 4,000 tokens in 48 layers of a width of 2,048 are 0.8 GB in F16: they go to a file without a name in
    `folder`, where each layer's lie together. Raises OSError.
    """

    def __init__(self, folder: Path, n_tokens: int, sequence: int) -> None:
        """`sequence`: tokens after which a new one begins."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._n_tokens = n_tokens
        self._sequence = sequence
        self._selections: list[npt.NDArray[np.int32]] = []
        self._gates: list[Floats] = []
        self._logits: list[npt.NDArray[np.float16]] = []
        self._layers: list[int] = []
        self._n_embd = 0
        self._n_done = 0

    def add(self, taken: tuple[npt.NDArray[np.int32], Floats, Floats, Floats]) -> bool:
        """Adds the passes that came after those before; returns whether all of their layers were recorded."""
        selections, gates, inputs, logits = taken
        passes, first = np.unique(selections[:, 0], return_index=True)
        layers = selections[: first[1] if len(first) > 1 else len(selections), 2].tolist()
        n = len(passes)
        if not self._layers:
            self._layers, self._n_embd = layers, inputs.shape[1]
        if n == 0 or layers != self._layers or len(selections) != n * len(layers) or len(inputs) != len(selections):
            return False
        halves = inputs.astype(np.float16).reshape(n, len(layers), self._n_embd)
        for place in range(len(layers)):
            self._file.seek((place * self._n_tokens + self._n_done) * self._n_embd * 2)
            self._file.write(np.ascontiguousarray(halves[:, place]).tobytes())
        self._selections.append(selections)
        self._gates.append(gates)
        self._logits.append(logits.astype(np.float16))
        self._n_done += n
        return True

    def close(self) -> None:
        """Removes the file."""
        self._file.close()

    @property
    def layers(self) -> list[int]:
        """Those with experts."""
        return self._layers

    def recording(self) -> Recording:
        """What the hybrid predictor is fitted to."""
        return Recording(np.concatenate(self._selections), np.concatenate(self._gates))

    def has_next(self) -> npt.NDArray[np.bool_]:
        """Of each token, whether another one of its sequence follows."""
        numbers = np.arange(self._n_done)
        follows: npt.NDArray[np.bool_] = ((numbers + 1) % self._sequence != 0) & (numbers + 1 < self._n_done)
        return follows

    def inputs(self, layer: int) -> Floats:
        """[n_tokens, n_embd] of the layer's router."""
        self._file.seek(self._layers.index(layer) * self._n_tokens * self._n_embd * 2)
        data = self._file.read(self._n_done * self._n_embd * 2)
        return np.frombuffer(data, np.float16).reshape(self._n_done, self._n_embd).astype(np.float32)

    def selected(self, layer: int) -> npt.NDArray[np.int32]:
        """[n_tokens, n_used]."""
        place, n_layers = self._layers.index(layer), len(self._layers)
        return np.concatenate([rows[place::n_layers, HEAD:] for rows in self._selections])

    def logits(self, layer: int) -> Floats:
        """[n_tokens, most experts of a layer]: what the layer's router made of its input."""
        place, n_layers = self._layers.index(layer), len(self._layers)
        return np.concatenate([rows[place::n_layers] for rows in self._logits]).astype(np.float32)

    def completed(self, source: int, distance: int) -> Floats:
        """[n_tokens, most experts of a layer]: what the router so far ahead made of the input, biases included."""
        place, n_layers = self._layers.index(source), len(self._layers)
        return np.concatenate([rows[place::n_layers, distance - 1] for rows in self._gates])
