"""The unfinished file: what it keeps, what it throws away, and that it never looks finished."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hobbit_py.errors import HobbitError, UsageError
from hobbit_py.pack import partial as partial_module
from hobbit_py.pack.partial import PartialFile

HEADER = b"GGUF" + bytes(range(60))
N_CHUNKS, CHUNK_BYTES = 4, 100
N_BYTES = len(HEADER) + N_CHUNKS * CHUNK_BYTES


def chunk(chunk_idx: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((2, CHUNK_BYTES // 2), chunk_idx + 1, np.uint8)


def open_partial(out: Path, header: bytes = HEADER) -> PartialFile:
    return PartialFile(out, header, N_BYTES, N_CHUNKS)


def write_chunks(partial: PartialFile, *indices: int) -> None:
    for chunk_idx in indices:
        partial.write(len(HEADER) + chunk_idx * CHUNK_BYTES, chunk(chunk_idx))
    partial.mark_done(indices)


def done(partial: PartialFile) -> list[bool]:
    return [partial.is_done(chunk_idx) for chunk_idx in range(N_CHUNKS)]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def finished_bytes() -> bytes:
    return HEADER + b"".join(chunk(chunk_idx).tobytes() for chunk_idx in range(N_CHUNKS))


def test_finishing_leaves_the_file_alone(tmp_path: Path) -> None:
    with open_partial(tmp_path / "out") as partial:
        write_chunks(partial, 3, 1, 0, 2)
        assert not (tmp_path / "out").exists()
        partial.finish()
    assert (tmp_path / "out").read_bytes() == finished_bytes()
    assert names(tmp_path) == ["out"]


def test_marked_chunks_are_kept(tmp_path: Path) -> None:
    with open_partial(tmp_path / "out") as partial:
        write_chunks(partial, 0, 2)
        partial.write(len(HEADER) + CHUNK_BYTES, chunk(1))  # written but not marked
        path = partial.path
    assert path.read_bytes()[:4] != b"GGUF"
    with open_partial(tmp_path / "out") as partial:
        assert done(partial) == [True, False, True, False]
        write_chunks(partial, 1, 3)
        partial.finish()
    assert (tmp_path / "out").read_bytes() == finished_bytes()


def test_cut_to_its_final_size_it_is_complete(tmp_path: Path) -> None:
    # As left behind by a process that ended within finish().
    with open_partial(tmp_path / "out") as partial:
        write_chunks(partial, 0, 1, 2, 3)
        os.truncate(partial.path, N_BYTES)
    with open_partial(tmp_path / "out") as partial:
        assert all(done(partial))
        partial.finish()
    assert (tmp_path / "out").read_bytes() == finished_bytes()


@pytest.mark.parametrize("damage", ["other header", "other size", "no header", "empty"])
def test_what_cannot_be_continued_is_begun_anew(tmp_path: Path, damage: str) -> None:
    header = HEADER
    with open_partial(tmp_path / "out") as partial:
        write_chunks(partial, 0, 1)
        path = partial.path
    if damage == "other header":
        header = HEADER[:-1] + b"?"
    elif damage == "other size":
        os.truncate(path, N_BYTES + N_CHUNKS + 1)
    elif damage == "no header":
        path.write_bytes(bytes(N_BYTES + N_CHUNKS))
    else:
        path.write_bytes(b"")
    with open_partial(tmp_path / "out", header) as partial:
        assert not any(done(partial))
        assert path.read_bytes() == b"\0\0\0\0" + header[4:] + bytes(N_BYTES - len(HEADER) + N_CHUNKS)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        open_partial(tmp_path / "out"),
        pytest.raises(HobbitError, match="Another process is packing"),
    ):
        open_partial(tmp_path / "out")
    with open_partial(tmp_path / "out"):
        pass


def test_an_error_keeps_it(tmp_path: Path) -> None:
    def write_and_stop() -> None:
        with open_partial(tmp_path / "out") as partial:
            write_chunks(partial, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    with open_partial(tmp_path / "out") as partial:
        assert done(partial) == [True, False, False, False]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("when", ["begin", "write"])
def test_a_full_drive_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, when: str) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    def fill_and_write() -> None:
        if when == "begin":
            monkeypatch.setattr(partial_module.os, "posix_fallocate", full)
        with open_partial(tmp_path / "out") as partial:
            monkeypatch.setattr(partial_module.os, "pwrite", full)
            write_chunks(partial, 0)

    with pytest.raises(HobbitError, match=r"cannot be written: .*make room") as raised:
        fill_and_write()
    assert raised.value.exit_code == 1
    assert names(tmp_path) == []


def test_free_space_is_checked_first(tmp_path: Path) -> None:
    n_bytes = 1 << 60
    with pytest.raises(HobbitError, match=r"needs .* on a drive with .* free"):
        PartialFile(tmp_path / "out", HEADER, n_bytes, N_CHUNKS)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        open_partial(tmp_path / "missing" / "out")
