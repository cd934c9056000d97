"""How lo files are named and found."""

from pathlib import Path

import pytest

from hobbit_py.pack.paths import default_out, find_lo
from hobbit_py.pack.types import LoTypes


@pytest.mark.parametrize(
    ("model", "lo", "out"),
    [
        ("model.gguf", "Q2_K", "model.lo-Q2_K.gguf"),
        ("model.v1.gguf", "Q2_K,down=Q4_0", "model.v1.lo-Q2_K-down-Q4_0.gguf"),
        ("model-00001-of-00003.gguf", "Q3_K", "model.lo-Q3_K.gguf"),
        ("model", "Q3_K", "model.lo-Q3_K.gguf"),
    ],
)
def test_default_name(model: str, lo: str, out: str) -> None:
    assert default_out(Path("folder") / model, LoTypes.parse(lo)) == Path("folder") / out


def write(path: Path, n_bytes: int) -> Path:
    path.write_bytes(b"x" * n_bytes)
    return path


def test_nothing_beside_the_model(tmp_path: Path) -> None:
    write(tmp_path / "other.lo-Q2_K.gguf", 1)
    write(tmp_path / "model.lo-Q2_K.gguf.partial", 1)
    (tmp_path / "model.lo-folder.gguf").mkdir()
    assert find_lo(tmp_path / "model.gguf") is None
    assert find_lo(tmp_path / "missing" / "model.gguf") is None


def test_the_largest_of_several(tmp_path: Path) -> None:
    write(tmp_path / "model.lo-Q2_K.gguf", 10)
    largest = write(tmp_path / "model.lo-Q3_K.gguf", 20)
    write(tmp_path / "model.lo-Q1_0.gguf", 5)
    assert find_lo(tmp_path / "model.gguf") == largest


def test_split_model_and_split_copy(tmp_path: Path) -> None:
    first = write(tmp_path / "model.lo-Q4_0-00001-of-00002.gguf", 10)
    write(tmp_path / "model.lo-Q4_0-00002-of-00002.gguf", 20)
    assert find_lo(tmp_path / "model-00001-of-00002.gguf") == first


def test_characters_that_mean_something_to_glob(tmp_path: Path) -> None:
    lo = write(tmp_path / "model[1]*.lo-Q2_K.gguf", 1)
    assert find_lo(tmp_path / "model[1]*.gguf") == lo
    assert find_lo(tmp_path / "model1.gguf") is None
