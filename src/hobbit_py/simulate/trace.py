"""A trace: what the routers of a model chose over a text, token by token, and what would have been predicted.

It knows of the model what a cache has to know, so that it can be replayed without it. Tokens were computed one at a
time, as in decoding.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..atomic_file import write_atomically
from ..errors import UsageError
from ..stored_files import read_arrays

SCHEMA = 1
MAX_DISTANCE = 3
_MAX_EXPERTS = 1 << 20  # of all layers: what a replay makes its tables of
_MAX_PART_BYTES = 1 << 40  # with that many experts, sums stay in 64 bits
_DTYPES: dict[str, type[np.generic]] = {
    "tokens": np.int32,
    "sequence_starts": np.int64,
    "layers": np.int32,
    "expert_idxs": np.int32,
    "weights": np.float32,
    "predicted_idxs": np.int32,
    "predicted_weights": np.float32,
    "n_expert": np.int64,
    "hi_part_bytes": np.int64,
    "lo_part_bytes": np.int64,
}
_TRAINED_DTYPES: dict[str, type[np.generic]] = {  # in traces of models that gates were trained for
    "trained_idxs": np.int32,
    "trained_weights": np.float32,
    "next_chances": np.float16,
}


@dataclass(frozen=True)
class Trace:
    """Arrays of a recorded run; a step is a layer of a token.

    Shapes: tokens [n_tokens], sequence_starts [n_sequences] (token numbers, ascending from 0), layers [n_steps],
    expert_idxs and weights [n_tokens, n_steps, n_used], the router's best first, predicted_idxs and predicted_weights
    [n_tokens, n_steps, 3, n_used]: what the routers one to three steps on made of this step's router input, likeliest
    first, and their softmax over all experts; -1 where there is no such step. Weights are 0 where the architecture's
    are not recognised.

    Of the model: n_expert [n_layers] (0: a dense layer), bytes of one expert's matrices [n_layers, n_parts] (0: none)
    in hi and, all 0 if there was no lo copy, in lo, and the drive's alignment in bytes, for which slots have room.

    Of gates trained for the model, None without: trained_idxs and trained_weights as what routers predicted, and
    next_chances [n_tokens, n_steps, most experts of a layer], with which chance the next token uses each expert of the
    step's layer, as the eviction policy is told; NaN beyond the layer's experts.
    """

    model: str
    alignment: int
    tokens: npt.NDArray[np.int32]
    sequence_starts: npt.NDArray[np.int64]
    layers: npt.NDArray[np.int32]
    expert_idxs: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    predicted_idxs: npt.NDArray[np.int32]
    predicted_weights: npt.NDArray[np.float32]
    n_expert: npt.NDArray[np.int64]
    hi_part_bytes: npt.NDArray[np.int64]
    lo_part_bytes: npt.NDArray[np.int64]
    trained_idxs: npt.NDArray[np.int32] | None = None
    trained_weights: npt.NDArray[np.float32] | None = None
    next_chances: npt.NDArray[np.float16] | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens recorded."""
        return len(self.tokens)

    @property
    def n_used(self) -> int:
        """Experts of a token in a layer."""
        return int(self.expert_idxs.shape[2])

    @property
    def has_lo(self) -> bool:
        """Whether the model had a lo copy."""
        return bool(self.lo_part_bytes.any())

    @property
    def is_trained(self) -> bool:
        """Whether gates were trained for the model."""
        return self.next_chances is not None

    def head(self, n_tokens: int) -> Trace:
        """The first n_tokens."""
        return self._slice(0, min(n_tokens, self.n_tokens))

    def tail(self, first_token: int) -> Trace:
        """The tokens from first_token on, as a trace of its own."""
        return self._slice(first_token, self.n_tokens)

    def _slice(self, first: int, end: int) -> Trace:
        starts = self.sequence_starts[(self.sequence_starts > first) & (self.sequence_starts < end)] - first
        cut = {
            name: getattr(self, name)[first:end]
            for name in ("tokens", "expert_idxs", "weights", "predicted_idxs", "predicted_weights", *_TRAINED_DTYPES)
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, sequence_starts=np.concatenate([[0], starts]).astype(np.int64), **cut)


def save_trace(path: str | os.PathLike[str], trace: Trace) -> None:
    """Writes the file, whole or not at all; raises OSError."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(trace, name), dtype) for name, dtype in _DTYPES.items()}
    if trace.is_trained:
        arrays |= {name: np.asarray(getattr(trace, name), dtype) for name, dtype in _TRAINED_DTYPES.items()}

    def write(file: BinaryIO) -> None:
        np.savez_compressed(
            file, schema=np.int64(SCHEMA), model=np.str_(trace.model), alignment=np.int64(trace.alignment), **arrays
        )

    write_atomically(Path(path), write)


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """Reads a trace and checks that it can be replayed.

    Raises UsageError for a file that is missing, none of ours, of another version or inconsistent.
    """
    name = repr(os.fspath(path))
    try:
        arrays: dict[str, Any] = read_arrays(path)
    except OSError as error:
        raise UsageError(f"The trace {name} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{name} is damaged or no trace, expected a file that 'hobbit trace' wrote.") from error
    schema = arrays.get("schema")
    if schema is None or schema.shape != () or schema.dtype.kind != "i":
        raise UsageError(f"{name} is no trace, expected a file that 'hobbit trace' wrote.")
    if int(schema) != SCHEMA:
        raise UsageError(
            f"The trace {name} has version {int(schema)}, expected {SCHEMA}; record it again with 'hobbit trace'."
        )
    if missing := [key for key in ("model", "alignment", *_DTYPES) if key not in arrays]:
        raise UsageError(f"The trace {name} lacks {missing[0]!r}; record it again with 'hobbit trace'.")
    trained = _TRAINED_DTYPES if any(key in arrays for key in _TRAINED_DTYPES) else {}
    if missing := [key for key in trained if key not in arrays]:
        raise UsageError(f"The trace {name} lacks {missing[0]!r}; record it again with 'hobbit trace'.")
    for key, dtype in (_DTYPES | trained).items():
        if arrays[key].dtype != np.dtype(dtype):
            raise UsageError(
                f"The trace {name} has {key!r} of type {arrays[key].dtype}, expected {np.dtype(dtype)}; record it "
                f"again with 'hobbit trace'."
            )
    if arrays["alignment"].shape != () or arrays["alignment"].dtype.kind != "i" or arrays["model"].shape != ():
        raise UsageError(f"The trace {name} has a damaged header; record it again with 'hobbit trace'.")
    trace = Trace(
        model=str(arrays["model"]),
        alignment=int(arrays["alignment"]),
        **{key: np.ascontiguousarray(arrays[key]) for key in _DTYPES | trained},
    )
    if problem := _problem(trace):
        raise UsageError(f"The trace {name} is inconsistent: {problem}; record it again with 'hobbit trace'.")
    return trace


def _problem(trace: Trace) -> str | None:
    """What would make a replay go wrong; None if nothing does."""
    if trace.expert_idxs.ndim != 3 or 0 in trace.expert_idxs.shape:
        return f"expert_idxs has shape {trace.expert_idxs.shape}, expected [n_tokens, n_steps, n_used]"
    n_tokens, n_steps, n_used = trace.expert_idxs.shape
    if trace.n_expert.ndim != 1 or not 0 < len(trace.n_expert) < 1 << 15:
        return f"n_expert has shape {trace.n_expert.shape}, expected [n_layers]"
    shapes = {
        "tokens": (n_tokens,),
        "layers": (n_steps,),
        "weights": (n_tokens, n_steps, n_used),
        "predicted_idxs": (n_tokens, n_steps, MAX_DISTANCE, n_used),
        "predicted_weights": (n_tokens, n_steps, MAX_DISTANCE, n_used),
        "lo_part_bytes": trace.hi_part_bytes.shape,
    }
    if trace.is_trained:
        shapes |= {"trained_idxs": shapes["predicted_idxs"], "trained_weights": shapes["predicted_idxs"]}
        shapes |= {"next_chances": (n_tokens, n_steps, int(trace.n_expert.max()))}
    for name, shape in shapes.items():
        if getattr(trace, name).shape != shape:
            return f"{name} has shape {getattr(trace, name).shape}, expected {shape}"
    if trace.hi_part_bytes.ndim != 2 or len(trace.hi_part_bytes) != len(trace.n_expert):
        return f"hi_part_bytes has shape {trace.hi_part_bytes.shape}, expected [n_layers, n_parts]"
    if not 1 <= trace.hi_part_bytes.shape[1] <= 3 or (trace.hi_part_bytes < 0).any() or (trace.lo_part_bytes < 0).any():
        return "the sizes of experts are not those of one to three matrices"
    if (trace.hi_part_bytes > _MAX_PART_BYTES).any() or (trace.lo_part_bytes > _MAX_PART_BYTES).any():
        return "an expert has a matrix that no model has"
    if trace.alignment < 1 or trace.alignment & (trace.alignment - 1) or trace.alignment > 1 << 24:
        return f"alignment is {trace.alignment}, expected a power of two"
    if (trace.layers < 0).any() or (trace.layers >= len(trace.n_expert)).any():
        return "layers names a layer that the model has not"
    n_expert = trace.n_expert[trace.layers]
    if (n_expert < n_used).any():
        return "n_expert has a layer with fewer experts than a token uses"
    if (trace.n_expert < 0).any() or (trace.n_expert > 1 << 16).any() or trace.n_expert.sum() > _MAX_EXPERTS:
        return "n_expert has more experts than a model can have"
    if not trace.hi_part_bytes[trace.layers].any(axis=1).all():
        return "hi_part_bytes has nothing for a layer that routes"
    if (trace.expert_idxs < 0).any() or (trace.expert_idxs >= n_expert[None, :, None]).any():
        return "expert_idxs names an expert that the layer has not"
    ordered = np.sort(trace.expert_idxs, axis=2)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        return "expert_idxs names an expert twice for one token"
    for name in ("predicted", "trained") if trace.is_trained else ("predicted",):
        if problem := _problem_of_predictions(name, getattr(trace, f"{name}_idxs"), n_expert):
            return problem
        weights = getattr(trace, f"{name}_weights")
        if not np.isfinite(weights).all() or (weights < 0).any():
            return "a weight is not a number of 0 or more"
    if not np.isfinite(trace.weights).all() or (trace.weights < 0).any():
        return "a weight is not a number of 0 or more"
    if trace.next_chances is not None and ((trace.next_chances < 0) | (trace.next_chances > 1)).any():
        return "next_chances has a chance that is none"
    starts = trace.sequence_starts
    if starts.ndim != 1 or len(starts) == 0 or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= n_tokens:
        return "sequence_starts is not an ascending list of tokens that begins with 0"
    return None


def _problem_of_predictions(name: str, idxs: npt.NDArray[np.int32], n_expert: npt.NDArray[np.int64]) -> str | None:
    """idxs [n_tokens, n_steps, 3, n_used], n_expert [n_steps]."""
    n_steps = len(n_expert)
    for distance in range(1, MAX_DISTANCE + 1):
        predicted = idxs[:, :, distance - 1]
        if distance < n_steps and (predicted[:, :-distance] >= n_expert[None, distance:, None]).any():
            return f"{name}_idxs names an expert that the layer has not"
        if (predicted[:, max(0, n_steps - distance) :] >= 0).any() or (predicted < -1).any():
            return f"{name}_idxs predicts a layer that does not come"
    return None
