"""`hobbit pack` killed, stopped, out of room: the next run continues, and nothing ever looks finished that is not."""

import itertools
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pack_support import write_imatrix
from support import ModelFactory

from hobbit_py.errors import ModelFileError
from hobbit_py.pack import find_lo, pack, verify, writer

LLAMA = "llama"


@pytest.fixture
def count_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns how many chunks were quantised since the test began."""
    calls = itertools.count()
    stock = writer.quantize

    def counted(*arguments: Any) -> npt.NDArray[np.uint8]:
        next(calls)
        return stock(*arguments)

    monkeypatch.setattr(writer, "quantize", counted)
    return lambda: int(repr(calls)[len("count(") : -1])


def test_killed_half_way_and_continued(
    tmp_path: Path, tiny_model: ModelFactory, count_chunks: Callable[[], int]
) -> None:
    model = tiny_model(LLAMA, n_layer=4)
    expected = pack(model, "Q2_K", tmp_path / "expected.gguf").read_bytes()
    n_chunks = count_chunks()
    out = tmp_path / "lo.gguf"
    child = subprocess.Popen([sys.executable, "-c", _PACK_SLOWLY, model, out], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        reported = next(float(line) for line in child.stdout if float(line) >= 0.5)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.gguf", "lo.gguf.partial"]
    with pytest.raises(ModelFileError, match="not a GGUF"):
        verify([model], tmp_path / "lo.gguf.partial")
    assert find_lo(tmp_path / "lo.gguf") is None

    assert pack(model, "Q2_K", out).read_bytes() == expected
    n_made = count_chunks() - n_chunks
    assert 0 < n_made <= round((1 - reported) * n_chunks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.gguf", "lo.gguf"]


# What is reported is on the drive: the sync comes before the report. One thread, so that no other chunk is ahead.
_PACK_SLOWLY = """
import sys, time
from hobbit_py.pack import pack, writer
writer._CHECKPOINT_S = 0.0
def report(fraction):
    print(fraction, flush=True)
    time.sleep(0.01)
pack(sys.argv[1], "Q2_K", sys.argv[2], n_threads=1, progress=report)
"""


def test_stopped_by_the_caller_and_continued(
    tmp_path: Path, tiny_model: ModelFactory, count_chunks: Callable[[], int]
) -> None:
    model = tiny_model(LLAMA)
    expected = pack(model, "Q4_K", tmp_path / "expected.gguf").read_bytes()
    n_chunks = count_chunks()
    out = tmp_path / "lo.gguf"

    def interrupt(fraction: float) -> None:
        if fraction > 0.3:
            while count_chunks() - n_chunks < 0.6 * n_chunks:
                time.sleep(0.001)  # the other threads run ahead of what is reported
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(model, "Q4_K", out, progress=interrupt, n_threads=2)
    n_before = count_chunks() - n_chunks
    assert not out.exists()
    assert pack(model, "Q4_K", out).read_bytes() == expected
    # What was made before the interrupt is not made again, whether it had been reported or not.
    assert n_before >= 0.6 * n_chunks
    assert count_chunks() - n_chunks == n_chunks


@pytest.mark.parametrize("change", ["types", "model", "imatrix", "feedback"])
def test_an_unfinished_file_of_something_else_is_discarded(
    tmp_path: Path, tiny_model: ModelFactory, change: str
) -> None:
    model = tiny_model(LLAMA)
    write_imatrix(tmp_path / "first.gguf", model, seed=1)
    write_imatrix(tmp_path / "second.gguf", model, seed=2)
    out = tmp_path / "lo.gguf"

    def interrupt(fraction: float) -> None:
        if fraction > 0.5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pack(model, "Q4_0", out, imatrix=tmp_path / "first.gguf", progress=interrupt)
    arguments: dict[str, Any] = {"model_path": model, "lo": "Q4_0", "imatrix": tmp_path / "first.gguf"}
    arguments |= {
        "types": {"lo": "Q4_0,up=IQ4_NL"},  # the same size
        "model": {"model_path": tiny_model(LLAMA, seed=1)},
        "imatrix": {"imatrix": tmp_path / "second.gguf"},
        "feedback": {"feedback": False},
    }[change]
    packed = pack(out=out, **arguments)
    assert packed.read_bytes() == pack(out=tmp_path / "fresh.gguf", **arguments).read_bytes()


def run_limited(n_bytes: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`hobbit` in a process that may not write files of more than n_bytes."""
    return subprocess.run(
        [sys.executable, "-m", "hobbit_py", *map(str, arguments)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_no_room_for_the_file(tmp_path: Path, tiny_model: ModelFactory) -> None:
    result = run_limited(100_000, "pack", tiny_model(LLAMA), "--lo", "Q4_0", "-o", tmp_path / "lo.gguf")
    assert result.returncode == 1
    assert "cannot be written: File too large; make room for" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
