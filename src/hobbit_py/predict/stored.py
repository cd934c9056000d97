"""The files beside a model in which predictors keep what they learned of it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..atomic_file import write_atomically
from ..stored_files import read_arrays
from ..tune.stored import tuning_path
from .gates import GateMap, TrainedGates
from .training import HybridMaps

SCHEMA = 1
_MAP = re.compile(r"map_([0-9]{1,5})_([1-9]|[1-5][0-9]|6[0-4])")  # layer and distance, small enough to make a table of
_ROWS = re.compile(r"rows_([0-9]{1,5})")
Matrices = list[npt.NDArray[np.float32]]


def traces_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit-traces.npz` beside the model."""
    return _beside(model_path, "hobbit-traces.npz")


def hybrid_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit-hybrid.npz` beside the model."""
    return _beside(model_path, "hobbit-hybrid.npz")


def gates_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit-gates.npz` beside the model."""
    return _beside(model_path, "hobbit-gates.npz")


def save_traces(model_paths: Sequence[str], prompts: Matrices, decodes: Matrices) -> None:
    """Writes the matrices of past requests, [n_cells] each; raises OSError."""
    _save(traces_path(model_paths[0]), model_paths, prompts=_stack(prompts), decodes=_stack(decodes))


def load_traces(model_paths: Sequence[str], n_cells: int) -> tuple[Matrices, Matrices]:
    """The matrices of past requests with this model, of prompts and of decoding; none if there is no usable file."""
    stored = _load(traces_path(model_paths[0]), model_paths)
    prompts, decodes = (_matrices(stored.get(name), n_cells) for name in ("prompts", "decodes"))
    return ([], []) if prompts is None or decodes is None else (prompts, decodes)


def save_hybrid(model_paths: Sequence[str], maps: HybridMaps) -> Path:
    """Writes what `fit_hybrid` found; raises OSError."""
    path = hybrid_path(model_paths[0])
    arrays = {f"map_{layer}_{distance}": shifts for (layer, distance), shifts in maps.shifts.items()}
    _save(path, model_paths, token_rows=maps.token_rows, n_token_rows=np.int64(maps.n_token_rows), **arrays)
    return path


def load_hybrid(model_paths: Sequence[str]) -> HybridMaps | None:
    """What was trained for this very model, or None."""
    stored = _load(hybrid_path(model_paths[0]), model_paths)
    token_rows, n_token_rows = stored.pop("token_rows", None), stored.pop("n_token_rows", None)
    if token_rows is None or token_rows.ndim != 1 or token_rows.dtype.kind != "i":
        return None
    if n_token_rows is None or n_token_rows.shape != () or n_token_rows.dtype.kind != "i":
        return None
    if not 0 < n_token_rows < 1 << 31 or ((token_rows < 0) | (token_rows >= n_token_rows)).any():
        return None
    shifts: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
    for name, array in stored.items():
        found = _MAP.fullmatch(name)
        if name.startswith("map_"):
            if found is None or array.dtype != np.float32 or not np.isfinite(array).all():
                return None
            shifts[int(found[1]), int(found[2])] = array
    return HybridMaps(token_rows.astype(np.int32), int(n_token_rows), shifts)


def save_gates(model_paths: Sequence[str], gates: TrainedGates) -> Path:
    """Writes what `fit_gates` found; raises OSError."""
    path = gates_path(model_paths[0])
    arrays: dict[str, npt.NDArray[Any]] = {}
    for layer, gate_map in gates.maps.items():
        arrays[f"rows_{layer}"], arrays[f"biases_{layer}"] = gate_map.rows, gate_map.biases
    _save(path, model_paths, n_ahead=np.int64(gates.n_ahead), **arrays)
    return path


def load_gates(model_paths: Sequence[str]) -> TrainedGates | None:
    """What was trained for this very model, or None."""
    stored = _load(gates_path(model_paths[0]), model_paths)
    n_ahead = stored.get("n_ahead")
    if n_ahead is None or n_ahead.shape != () or n_ahead.dtype.kind != "i" or not 0 <= n_ahead < 1 << 15:
        return None
    maps: dict[int, GateMap] = {}
    for name, rows in stored.items():
        found = _ROWS.fullmatch(name)
        if found is None:
            continue
        biases = stored.get(f"biases_{found[1]}")
        if biases is None or rows.dtype != np.float16 or biases.dtype != np.float32 or rows.ndim != 2:
            return None
        if biases.shape != rows.shape[:1] or not np.isfinite(rows).all() or not np.isfinite(biases).all():
            return None
        maps[int(found[1])] = GateMap(rows, biases)
    same_width = len({gate_map.rows.shape[1] for gate_map in maps.values()}) == 1
    return TrainedGates(int(n_ahead), maps) if same_width else None


def _matrices(stacked: npt.NDArray[Any] | None, n_cells: int) -> Matrices | None:
    """The rows, of n_cells each; None for something else."""
    if stacked is None or stacked.dtype != np.float32 or stacked.ndim != 2:
        return None
    if (len(stacked) and stacked.shape[1] != n_cells) or not np.isfinite(stacked).all() or (stacked < 0).any():
        return None
    return list(stacked)


def _beside(model_path: str | os.PathLike[str], suffix: str) -> Path:
    path = tuning_path(model_path)
    return path.with_name(f"{path.name.removesuffix('.hobbit.json')}.{suffix}")


def _identity(model_paths: Sequence[str]) -> npt.NDArray[Any]:
    return np.array([f"{Path(path).name}:{Path(path).stat().st_size}" for path in model_paths])


def _stack(matrices: Matrices) -> npt.NDArray[np.float32]:
    return np.stack(matrices) if matrices else np.zeros((0, 0), np.float32)


def _save(path: Path, model_paths: Sequence[str], **arrays: npt.ArrayLike) -> None:
    def write(file: BinaryIO) -> None:
        np.savez(file, schema=np.int64(SCHEMA), model=_identity(model_paths), **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)


def _load(path: Path, model_paths: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Empty for a file that is missing, damaged, newer or of another model: a model must not fail to load for it."""
    try:
        stored = read_arrays(path)
        same = int(stored["schema"]) == SCHEMA and np.array_equal(stored["model"], _identity(model_paths))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return {}
    return stored if same else {}
