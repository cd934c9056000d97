"""The hybrid predictor's fit and the files of predictors that learn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from hobbit_py.predict import (
    HybridMaps,
    Recording,
    fit_hybrid,
    hybrid_path,
    load_hybrid,
    load_traces,
    recall,
    save_hybrid,
    save_traces,
    traces_path,
)

N_EXPERT, N_USED, N_VOCAB = 8, 2, 10


def recording(n_passes: int, *, tells: bool, seed: int = 0) -> Recording:
    """Two layers: what the second selects follows from the token, and of that its gate knows little or nothing."""
    rng = np.random.default_rng(seed)
    selections, gates = [], []
    for number in range(n_passes):
        token = int(rng.integers(N_VOCAB))
        first = rng.choice(N_EXPERT, N_USED, replace=False)
        second = [token % N_EXPERT, (token + 3) % N_EXPERT] if tells else rng.choice(N_EXPERT, N_USED, replace=False)
        logits = rng.normal(size=N_EXPERT)
        logits[second] += 1.0
        for layer, chosen in ((0, first), (1, second)):
            selections.append([number, 0, layer, token, *chosen])
        gates += [logits, np.full(N_EXPERT, np.nan)]
    return Recording(np.array(selections, np.int32), np.array(gates, np.float32)[:, None, :])


def test_what_tokens_tell_is_learned() -> None:
    maps = fit_hybrid(recording(600, tells=True), N_VOCAB, n_token_rows=N_VOCAB + 1)
    unseen = recording(300, tells=True, seed=1)
    assert set(maps.shifts) == {(1, 1)}
    assert maps.shifts[1, 1].shape == (2 * N_EXPERT + N_VOCAB + 1 + 1, N_EXPERT)
    assert recall(unseen, None, 1) < 0.75
    assert recall(unseen, maps, 1) > 0.85
    assert recall(unseen, maps, 2) == 0.0  # nothing to compare


def test_what_is_noise_does_little_harm() -> None:
    maps = fit_hybrid(recording(600, tells=False), N_VOCAB)
    unseen = recording(300, tells=False, seed=1)
    assert recall(unseen, maps, 1) > recall(unseen, None, 1) - 0.03


def model_file(folder: Path, n_bytes: int = 100) -> list[str]:
    path = folder / "model-00001-of-00002.gguf"
    path.write_bytes(b"x" * n_bytes)
    return [str(path)]


def test_traces_are_kept_for_this_model_only(tmp_path: Path) -> None:
    paths = model_file(tmp_path)
    assert load_traces(paths, 6) == ([], [])
    save_traces(paths, [], [np.arange(6, dtype=np.float32)])
    assert traces_path(paths[0]) == tmp_path / "model.hobbit-traces.npz"
    prompts, decodes = load_traces(paths, 6)
    assert prompts == []
    assert [row.tolist() for row in decodes] == [[0, 1, 2, 3, 4, 5]]
    assert load_traces(paths, 7) == ([], [])  # other experts
    model_file(tmp_path, 101)
    assert load_traces(paths, 6) == ([], [])  # another file of that name


def test_the_hybrid_is_kept_for_this_model_only(tmp_path: Path) -> None:
    paths = model_file(tmp_path)
    assert load_hybrid(paths) is None
    maps = HybridMaps(np.zeros(N_VOCAB, np.int32), 1, {(3, 2): np.ones((4, 2), np.float32)})
    assert save_hybrid(paths, maps) == hybrid_path(paths[0])
    loaded = load_hybrid(paths)
    assert loaded is not None
    assert loaded.n_token_rows == 1
    assert np.array_equal(loaded.shifts[3, 2], maps.shifts[3, 2])
    model_file(tmp_path, 101)
    assert load_hybrid(paths) is None


def npy_bytes() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def npz_bytes(compress_type: int) -> bytes:
    """One array, packed as its archive says in a way that nobody knows."""
    file = io.BytesIO()
    np.savez(file, schema=np.int64(1))
    data = bytearray(file.getvalue())
    for signature, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        data[data.index(signature) + place] = compress_type
    return bytes(data)


@pytest.mark.parametrize("damage", [b"", b"PK", b"no archive at all", npy_bytes(), npz_bytes(compress_type=99)])
def test_damaged_files_count_as_absent(tmp_path: Path, damage: bytes) -> None:
    paths = model_file(tmp_path)
    traces_path(paths[0]).write_bytes(damage)
    hybrid_path(paths[0]).write_bytes(damage)
    assert load_traces(paths, 6) == ([], [])
    assert load_hybrid(paths) is None


def damage_arrays(path: Path, **changes: object) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": np.array([1, 1])},
        {"decodes": np.array([["a"] * 6])},
        {"decodes": np.zeros((5, 0), np.float32)},
        {"decodes": np.full((1, 6), np.nan, np.float32)},
        {"prompts": np.zeros((1, 7), np.float32)},
        {"prompts": np.zeros(6, np.float32)},
    ],
    ids=str,
)
def test_traces_that_do_not_fit_count_as_absent(tmp_path: Path, changes: dict[str, object]) -> None:
    paths = model_file(tmp_path)
    save_traces(paths, [], [np.arange(6, dtype=np.float32)])
    damage_arrays(traces_path(paths[0]), **changes)
    assert load_traces(paths, 6) == ([], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"map_999999999_1": np.ones((4, 2), np.float32)},
        {"map_0_999999999": np.ones((4, 2), np.float32)},
        {"map_-1_1": np.ones((4, 2), np.float32)},
        {"map_0": np.ones((4, 2), np.float32)},
        {"map_0_1": np.array([["a"]])},
        {"map_0_1": np.full((4, 2), np.inf, np.float32)},
        {"n_token_rows": np.int64(-1)},
        {"n_token_rows": np.int64(1 << 40)},
        {"n_token_rows": np.zeros(2, np.int64)},
        {"token_rows": np.zeros(N_VOCAB)},
        {"token_rows": np.full(N_VOCAB, -1, np.int32)},
        {"token_rows": np.zeros((), np.int32)},
    ],
    ids=str,
)
def test_a_hybrid_that_makes_no_sense_counts_as_absent(tmp_path: Path, changes: dict[str, object]) -> None:
    paths = model_file(tmp_path)
    save_hybrid(paths, HybridMaps(np.zeros(N_VOCAB, np.int32), 1, {(3, 2): np.ones((4, 2), np.float32)}))
    damage_arrays(hybrid_path(paths[0]), **changes)
    assert load_hybrid(paths) is None
