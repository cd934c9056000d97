"""What scripts/bench_presets.py makes of its measurements."""

from pathlib import Path

import pytest
from bench_presets import Block, link_model, summarise, table


def block(way: str, idx: int, seconds: float, *, stall_s: float = 0.0, useful_bytes: int = 0) -> Block:
    return Block("p", way, idx, 10, seconds, stall_s, 0.5, 20_000_000, useful_bytes, 0, 0, 0)


def test_ratios_are_of_blocks_of_the_same_tokens() -> None:
    blocks = [
        block("ahead", 0, 1.0, stall_s=0.1, useful_bytes=10_000_000),
        block("without", 0, 2.0, stall_s=0.4),
        block("without", 1, 9.0, stall_s=0.4),
        block("ahead", 1, 10.0, stall_s=0.1),
        block("ahead", 2, 4.0, stall_s=0.1),
        block("without", 2, 5.0, stall_s=0.4),
    ]
    row = summarise("p", "exact", blocks)
    assert row.speedup == pytest.approx((1.25, 0.9, 2.0))
    assert row.n_blocks == 3
    assert row.stall_ms == pytest.approx({"ahead": 10.0, "without": 40.0})
    assert row.useful_mb == pytest.approx(10 / 30)
    assert row.read_mb["without"] == pytest.approx(2.0)
    assert "| 1.250 (0.90 to 2.00) |" in table([row])[-1]


def test_a_model_is_linked_with_what_lies_beside_it_but_no_traces(tmp_path: Path) -> None:
    source, folder = tmp_path / "models", tmp_path / "run"
    source.mkdir()
    folder.mkdir()
    for name in ("m.gguf", "m.lo-Q4_0.gguf", "m.hobbit-hybrid.npz", "m.hobbit-traces.npz", "other.gguf"):
        (source / name).write_text(name)
    assert link_model(source / "m.gguf", folder).read_text() == "m.gguf"
    assert sorted(p.name for p in folder.iterdir()) == ["m.gguf", "m.hobbit-hybrid.npz", "m.lo-Q4_0.gguf"]
