"""Importance matrices in both of llama.cpp's formats."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFWriter

from hobbit_py.errors import ModelFileError
from hobbit_py.pack.imatrix import Imatrix

Floats = npt.NDArray[np.float32]
NAME = "blk.0.ffn_up_exps.weight"
N_IN, N_EXPERT = 8, 3
SUMS = np.arange(1, 1 + N_EXPERT * N_IN, dtype=np.float32).reshape(N_EXPERT, N_IN)


def write_gguf(path: Path, sums: Floats, counts: Floats, kind: str = "imatrix", with_counts: bool = True) -> Path:
    writer = GGUFWriter(path, "")
    writer.add_type(kind)
    writer.add_tensor(f"{NAME}.in_sum2", sums)
    if with_counts:
        writer.add_tensor(f"{NAME}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_legacy(path: Path, entries: dict[str, Floats], n_calls: int, tail: bytes = b"") -> Path:
    data = struct.pack("<i", len(entries))
    for name, means in entries.items():
        encoded = name.encode()
        data += struct.pack(f"<i{len(encoded)}sii", len(encoded), encoded, n_calls, means.size) + means.tobytes()
    path.write_bytes(data + tail)
    return path


def counts(*numbers: float) -> Floats:
    return np.array(numbers, np.float32).reshape(-1, 1)


def test_gguf_divides_each_expert_by_its_count(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "imatrix.gguf", SUMS, counts(2, 0, 4))
    with Imatrix(path) as imatrix:
        assert imatrix.has(NAME)
        assert not imatrix.has("blk.1.ffn_up_exps.weight")
        imatrix.check_shape(NAME, N_IN, N_EXPERT)
        np.testing.assert_array_equal(imatrix.row(NAME, N_IN, 0), SUMS[0] / 2)
        np.testing.assert_array_equal(imatrix.row(NAME, N_IN, 1), np.ones(N_IN))  # never selected
        np.testing.assert_array_equal(imatrix.row(NAME, N_IN, 2), SUMS[2] / 4)
        assert imatrix.row(NAME, N_IN, 0).dtype == np.float32


def test_gguf_with_one_count_for_all(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "imatrix.gguf", SUMS, counts(5))
    with Imatrix(path) as imatrix:
        np.testing.assert_array_equal(imatrix.row(NAME, N_IN, 2), SUMS[2] / np.float32(5))


@pytest.mark.parametrize("tail", [b"", struct.pack("<ii", 7, 0)])
def test_legacy_divides_by_the_calls(tmp_path: Path, tail: bytes) -> None:
    other = np.ones((1, 4), np.float32)
    path = write_legacy(tmp_path / "imatrix.dat", {"output.weight": other, NAME: SUMS}, 10, tail)
    with Imatrix(path) as imatrix:
        imatrix.check_shape(NAME, N_IN, N_EXPERT)
        np.testing.assert_array_equal(imatrix.row(NAME, N_IN, 1), SUMS[1] / np.float32(10))


def test_content_is_identified(tmp_path: Path) -> None:
    with (
        Imatrix(write_legacy(tmp_path / "a", {NAME: SUMS}, 1)) as first,
        Imatrix(write_legacy(tmp_path / "b", {NAME: SUMS}, 1)) as same,
        Imatrix(write_legacy(tmp_path / "c", {NAME: SUMS + 1}, 1)) as other,
    ):
        assert first.sha256 == same.sha256 != other.sha256


@pytest.mark.parametrize("shape", [(N_IN, N_EXPERT + 1), (N_IN * 2, N_EXPERT)])
def test_other_shape_is_named(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write_gguf(tmp_path / "imatrix.gguf", SUMS, counts(1, 1, 1))
    with Imatrix(path) as imatrix, pytest.raises(ModelFileError, match=f"has 24 numbers for {NAME}"):
        imatrix.check_shape(NAME, *shape)


def test_unusable_files(tmp_path: Path) -> None:
    whole = write_legacy(tmp_path / "whole", {NAME: SUMS}, 1).read_bytes()
    bad = {
        "missing": (None, "cannot be read: No such file"),
        "empty": (b"", "truncated"),
        "text": (b"# a text that is no matrix at all\n", "another kind"),
        "zero": (struct.pack("<i", 0), "no entries"),
        "cut-name": (whole[:12], "truncated"),
        "cut-sums": (whole[:-1], "truncated"),
    }
    for name, (content, reason) in bad.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelFileError, match=reason):
            Imatrix(path)


def test_unusable_gguf_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not an importance matrix"):
        Imatrix(write_gguf(tmp_path / "a", SUMS, counts(1, 1, 1), kind="model"))
    with pytest.raises(ModelFileError, match="sums without counts"):
        Imatrix(write_gguf(tmp_path / "b", SUMS, counts(), with_counts=False))
    with pytest.raises(ModelFileError, match="something else than F32"):
        Imatrix(write_gguf(tmp_path / "c", SUMS.astype(np.float16), counts(1, 1, 1)))
    cut = write_gguf(tmp_path / "d", SUMS, counts(1, 1, 1))
    cut.write_bytes(cut.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match="truncated"):
        Imatrix(cut)


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    sums = SUMS.copy()
    sums[1, 3] = np.nan
    with Imatrix(write_gguf(tmp_path / "imatrix.gguf", sums, counts(1, 1, 1))) as imatrix:
        np.testing.assert_array_equal(imatrix.row(NAME, N_IN, 0), sums[0])
        with pytest.raises(ModelFileError, match="not finite"):
            imatrix.row(NAME, N_IN, 1)
    sums[1] = np.inf
    infinite = write_gguf(tmp_path / "infinite.gguf", sums, counts(1, np.inf, 1))
    with Imatrix(infinite) as imatrix, pytest.raises(ModelFileError, match="not finite"):
        imatrix.row(NAME, N_IN, 1)
