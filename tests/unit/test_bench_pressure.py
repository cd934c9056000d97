"""What scripts/bench_pressure.py says of the machine that its figures are from, and how it compares runs."""

import os

import pytest
from bench_pressure import ModelSizes, machine_fields, parse_options
from bench_table import DRIVE, Case, Run, Thresholds, check, format_table, summarise


def test_cores_are_those_that_the_runs_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under taskset fewer than the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {1, 3, 5})
    options = parse_options(["--model", "wide.gguf"])
    fields = machine_fields(options, ModelSizes(4, 3, 2, 1), {"GOMP_SPINCOUNT": "7"})
    assert fields["n_cores"] == 3
    assert (fields["model"], fields["file_bytes"], fields["gomp_spincount"]) == ("wide.gguf", 4, "7")


BOX = Case("hobbit", box_percent=50)


def run_of(case: Case, round_idx: int, *, tok_s: float, mb_per_token: float = 0.0, drive_mb_s: float = 1000) -> Run:
    result = {
        "decode_tok_s": tok_s,
        "prompt_tok_s": 10.0,
        "read_bytes_per_token": mb_per_token * 1e6,
        "peak_rss_bytes": 1,
        "tokens": [1, 2],
    }
    return Run(case, 64, round_idx, result, drive_mb_s * 1e6)


def test_a_run_is_compared_with_the_drive_beside_it() -> None:
    """The drive and the run get slower by a half together: the share of it stays, and the limit of a token moves."""
    runs = [run_of(Case("hobbit", arena_percent=100), idx, tok_s=50) for idx in range(3)]
    runs += [
        run_of(BOX, 0, tok_s=8, mb_per_token=100, drive_mb_s=1000),
        run_of(BOX, 1, tok_s=4, mb_per_token=100, drive_mb_s=500),
        run_of(BOX, 2, tok_s=9, mb_per_token=100, drive_mb_s=1000),
    ]
    resident, boxed = summarise(runs)
    assert (resident.drive_share, resident.io_s, resident.over_roofline, resident.position) == (None,) * 4
    assert boxed.drive_share is not None
    assert boxed.over_roofline is not None
    assert boxed.drive_share.show() == "0.80 (0.80-0.90)"
    assert boxed.over_roofline.show() == "1.25 (1.11-1.25)"
    assert boxed.io_s == pytest.approx(0.1)
    assert boxed.position == pytest.approx(0.025 / 0.02)
    assert boxed.io_bound
    assert "80% (80%-90%)" in format_table([boxed], DRIVE)
    assert check(runs, [resident, boxed], Thresholds(min_drive_share=0.8, max_over_roofline=1.25)) == []
    assert check(runs, [boxed], Thresholds(min_drive_share=0.81, max_over_roofline=1.2)) == [
        "hobbit exact, 50% box, prompt 64: token time over max(compute, io) is 1.25, expected at most 1.2",
        "hobbit exact, 50% box, prompt 64: share of the drive's bandwidth is 0.80, expected at least 0.81",
    ]


def test_where_nothing_was_run_with_all_in_ram_there_is_no_roofline() -> None:
    (boxed,) = summarise([run_of(BOX, 0, tok_s=8, mb_per_token=100)])
    assert (boxed.compute_s, boxed.over_roofline, boxed.io_bound) == (None, None, False)
    assert boxed.drive_share is not None
