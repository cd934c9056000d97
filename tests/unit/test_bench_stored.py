"""What `hobbit bench --save` stores is used whole or not at all."""

import json
from pathlib import Path

import pytest

from hobbit_py.bench.stored import StoredBench, bench_path, load_bench, save_bench

STORED = StoredBench(1000, ((0.25, 0.9), (0.5, 0.5)), "a processor", 2, 0.125)


def test_round_trip(tmp_path: Path) -> None:
    save_bench(tmp_path / "m.gguf", STORED)
    assert load_bench(tmp_path / "m.gguf", 1000) == STORED
    assert load_bench(tmp_path / "m.gguf", 1001) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"reuse": [[0.5, 10**400]]},
        {"reuse": [[0.5, "1"]]},
        {"reuse": [[0.5]]},
        {"reuse": 5},
        {"processor": None},
        {"n_threads": "2"},
        {"n_threads": True},
        {"compute_s": [1]},
        {"compute_s": -1},
        {"more": 1},
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_cannot_be_used_counts_as_absent(tmp_path: Path, change: dict[str, object]) -> None:
    path = save_bench(tmp_path / "m.gguf", STORED)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert load_bench(tmp_path / "m.gguf", 1000) is None


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"[" * 100_000, b" " * (2 << 20)], ids=lambda c: repr(c[:4]))
def test_a_damaged_file_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    bench_path(tmp_path / "m.gguf").write_bytes(content)
    assert load_bench(tmp_path / "m.gguf", 1000) is None
