"""What scripts/bench_pressure.py says of the machine that its figures are from."""

import os

import pytest
from bench_pressure import ModelSizes, machine_fields, parse_options


def test_cores_are_those_that_the_runs_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under taskset fewer than the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {1, 3, 5})
    options = parse_options(["--model", "wide.gguf"])
    fields = machine_fields(options, ModelSizes(4, 3, 2, 1), {"GOMP_SPINCOUNT": "7"})
    assert fields["n_cores"] == 3
    assert (fields["model"], fields["file_bytes"], fields["gomp_spincount"]) == ("wide.gguf", 4, "7")
