"""The tables of docs/accuracy.md: what is compared with what, and when the report fails."""

import json
import sys
from pathlib import Path
from typing import Any

import accuracy_report as report
import accuracy_sweep as sweep
import pytest


def record(method: str, setting: str, bytes_ratio: float, kl_mean: float, loss: float = 0.01) -> dict[str, Any]:
    return {
        "model": "m.gguf", "arena": 0.25, "method": method, "setting": setting, "lo": "Q3_K", "loss": loss,
        "loss_se": 0.001, "kl_mean": kl_mean, "top1_agreement": 0.9, "share_hi": 0.4, "share_lo": 0.6,
        "share_skip": 0.0, "read_bytes_per_token": 1e6, "bytes_ratio": bytes_ratio, "tokens": 1024,
    }  # fmt: skip


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *records: dict[str, Any]) -> int:
    path = folder / "accuracy.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["accuracy_report", str(path)])
    status: int = report.main()
    return status


OURS = (record("weight", "default", 0.4, 0.006, 0.004), record("weight", "hi above 0.3", 0.34, 0.009, 0.008))


def test_an_alternative_that_loses_more_at_its_bytes_is_beaten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = (record("random", "p=0.7", 0.6, 0.007), record("uniform", "whole model", 0.1, 0.05))
    assert run(tmp_path, monkeypatch, *OURS, *others) == 0
    out = capsys.readouterr().out
    assert "2 alternatives: ours is closer to exact mode at their bytes than 1, not than 0; 1 read less" in out
    assert "| m.gguf | 25% | x0.40 (Q3_K, default) | x0.34 (Q3_K, hi above 0.3) |" in out


def test_an_alternative_that_is_as_close_fails_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, monkeypatch, *OURS, record("skip only", "beyond 0.8", 0.35, 0.009)) == 1
    assert "m.gguf, 25%: skip only Q3_K beyond 0.8: no setting of ours is closer" in capsys.readouterr().out


def test_router_filters_are_compared_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closer = record("filter", "exact, Substitute(0.3, 1)", 0.35, 0.001)
    assert run(tmp_path, monkeypatch, *OURS, record("random", "p=0.7", 0.6, 0.007), closer) == 0
    out = capsys.readouterr().out
    assert "1 alternatives" in out
    assert "Substitute" not in out


def test_settings_that_another_beats_in_bytes_and_divergence_are_left_out() -> None:
    beaten = record("hobbit", "T1=0 T2=1", 0.41, 0.008)
    assert report.without_dominated([*OURS, beaten]) == list(OURS)


def test_router_filters_run_only_if_they_are_asked_for() -> None:
    filtered, default = (sweep.Point("m.gguf", 0.25, *names) for names in ((sweep.FILTER, "x"), ("weight", "default")))
    for only, is_asked in ((None, (False, True)), ([sweep.FILTER], (True, False)), (["x"], (True, False))):
        assert (sweep.is_asked(filtered, only), sweep.is_asked(default, only)) == is_asked


def test_router_filters_are_written_as_they_are_made() -> None:
    texts = [sweep.filter_text(f) for f in (*sweep.EXACT_FILTERS, *sweep.MIXED_FILTERS)]
    assert {"CachePrior(0.02, 2)", "Substitute(0.5, 2)", "no filter"} <= set(texts)
