"""Trace files: what is written is read, and nothing else is taken for a trace."""

import dataclasses
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from traces import random_trace

from hobbit_py.errors import UsageError
from hobbit_py.simulate import Trace, load_trace, save_trace


def assert_same(a: Trace, b: Trace) -> None:
    for field in dataclasses.fields(Trace):
        one, other = getattr(a, field.name), getattr(b, field.name)
        is_float = getattr(one, "dtype", np.dtype(int)).kind == "f"
        assert np.array_equal(one, other, equal_nan=is_float), field.name


def test_round_trip(tmp_path: Path) -> None:
    trace = random_trace()
    save_trace(tmp_path / "t.npz", trace)
    assert_same(load_trace(tmp_path / "t.npz"), trace)
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def test_round_trip_of_what_trained_gates_say(tmp_path: Path) -> None:
    trace = random_trace(is_trained=True)
    save_trace(tmp_path / "t.npz", trace)
    assert load_trace(tmp_path / "t.npz").is_trained
    assert_same(load_trace(tmp_path / "t.npz"), trace)
    assert trace.next_chances is not None
    assert np.array_equal(trace.tail(5).next_chances, trace.next_chances[5:], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("next_chances", lambda a: a + np.float16(1), "a chance that is none"),
        ("next_chances", lambda a: a[:, :, :-1], "next_chances has shape"),
        ("next_chances", lambda a: a.astype(np.float32), "of type float32"),
        ("trained_idxs", lambda a: a + 8, "trained_idxs names an expert"),
        ("trained_idxs", np.zeros_like, "trained_idxs predicts a layer"),
        ("trained_weights", lambda a: -a, "a weight is not"),
        ("trained_weights", None, "lacks 'trained_weights'"),
    ],
)
def test_what_trained_gates_cannot_have_said_is_refused(tmp_path: Path, name: str, change: Any, said: str) -> None:
    path = tmp_path / "t.npz"
    save_trace(path, random_trace(is_trained=True))
    with np.load(path) as file:
        arrays = dict(file)
    array = arrays.pop(name)
    np.savez(path, **(arrays | ({name: change(array)} if change else {})))
    assert said in refusal(path)


def test_head_and_tail_cut_sequences() -> None:
    trace = dataclasses.replace(random_trace(n_tokens=10), sequence_starts=np.array([0, 4, 8]))
    assert trace.head(8).sequence_starts.tolist() == [0, 4]
    assert trace.tail(4).sequence_starts.tolist() == [0, 4]
    assert trace.tail(5).sequence_starts.tolist() == [0, 3]
    assert np.array_equal(trace.tail(5).expert_idxs, trace.expert_idxs[5:])


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.npz"
    first = random_trace(seed=1)
    save_trace(path, first)

    def fail(file: io.BufferedWriter, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="No space"):
        save_trace(path, random_trace(seed=2))
    assert_same(load_trace(path), first)
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_trace(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("n_bytes", [0, 1, 100, -1, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "t.npz"
    save_trace(path, random_trace())
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert "damaged or no trace" in refusal(path)


def test_flipped_bytes_are_refused_or_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    trace = random_trace()
    save_trace(path, trace)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    n_refused = 0
    for position in rng.integers(0, len(data), 100):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            loaded = load_trace(path)
        except UsageError:
            n_refused += 1
        else:
            assert_same(loaded, trace)
    assert n_refused > 50


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    assert "cannot be read: No such file" in refusal(path)
    path.write_text("a text")
    assert "damaged or no trace" in refusal(path)
    np.savez(path, a=np.zeros(3))
    assert "is no trace" in refusal(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "damaged or no trace" in refusal(path)
    np.savez(path, schema=np.array([{}], dtype=object))
    assert "damaged or no trace" in refusal(path)


def test_an_archive_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("model.npy", "w") as member:
        for _ in range(80):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    assert "damaged or no trace" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, schema=np.int64(99))
    assert "has version 99, expected 1" in refusal(path)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("expert_idxs", lambda a: a[:, :, :0], "expert_idxs has shape"),
        ("expert_idxs", lambda a: a + 100, "names an expert that the layer has not"),
        ("expert_idxs", lambda a: np.zeros_like(a), "names an expert twice"),
        ("expert_idxs", lambda a: a.astype(np.float64), "of type float64"),
        ("weights", lambda a: a[:-1], "weights has shape"),
        ("weights", lambda a: a * np.nan, "not a number"),
        ("predicted_idxs", lambda a: a + 100, "names an expert that the layer has not"),
        ("predicted_idxs", lambda a: np.zeros_like(a), "does not come"),
        ("layers", lambda a: a + 100, "a layer that the model has not"),
        ("n_expert", lambda a: a * 0 + 1, "fewer experts than a token uses"),
        ("n_expert", lambda a: a - (np.arange(len(a)) == 0), "more experts than a model can have"),
        ("n_expert", lambda a: np.resize(a, 1 << 14) * 0 + (1 << 16), "expected [n_layers, n_parts]"),
        ("hi_part_bytes", lambda a: a << 50, "that no model has"),
        ("hi_part_bytes", lambda a: a * 0, "nothing for a layer that routes"),
        ("hi_part_bytes", lambda a: -a, "sizes of experts"),
        ("sequence_starts", lambda a: a + 1, "sequence_starts"),
        ("sequence_starts", lambda a: np.array([0, 5, 5]), "sequence_starts"),
    ],
)
def test_an_inconsistent_trace_is_refused(tmp_path: Path, name: str, change: Any, problem: str) -> None:
    path = tmp_path / "t.npz"
    save_trace(path, random_trace())
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    arrays[name] = change(arrays[name])
    np.savez(path, **arrays)
    assert problem in refusal(path)


def test_a_missing_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    save_trace(path, random_trace())
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != "layers"}
    np.savez(path, **arrays)
    assert "lacks 'layers'" in refusal(path)
