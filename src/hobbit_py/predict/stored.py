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
from .training import HybridMaps

SCHEMA = 1
_MAP = re.compile(r"map_([0-9]{1,5})_([1-9]|[1-5][0-9]|6[0-4])")  # layer and distance, small enough to make a table of
Matrices = list[npt.NDArray[np.float32]]


def traces_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit-traces.npz` beside the model."""
    return _beside(model_path, "hobbit-traces.npz")


def hybrid_path(model_path: str | os.PathLike[str]) -> Path:
    """`<model stem>.hobbit-hybrid.npz` beside the model."""
    return _beside(model_path, "hobbit-hybrid.npz")


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
