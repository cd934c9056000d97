"""The figures of `hobbit bench`: medians, the roofline, what is left out where nothing was measured."""

import dataclasses
import math
import os
import threading
import time
from pathlib import Path

import pytest

from hobbit_py import HobbitError
from hobbit_py.bench.child import Job
from hobbit_py.bench.decode import Measurement, RunShape
from hobbit_py.bench.drive import DriveError, best_random_reads, measure_random_reads
from hobbit_py.bench.memory_load import memory_load
from hobbit_py.bench.roofline import Roofline
from hobbit_py.bench.runs import Budget, Case, MixedSetup, Run, Setup, check_exact, figures_of
from hobbit_py.policies import Reroute, RouterFilter, Substitute, WeightThresholds

RESIDENT = Case(Budget.everything(), "exact")
HALF = Case(Budget("half", expert_memory=1 << 20), "exact")


def measured(
    tok_s: float, *, read_bytes: float = 0.0, stall_s: float = 0.0, tokens: tuple[int, ...] = ()
) -> Measurement:
    return Measurement(
        load_s=1.0,
        first_token_s=2.0,
        prompt_tokens=8,
        prompt_tok_s=50.0,
        decode_tok_s=tok_s,
        token_s=[1 / tok_s],
        cpu_s_per_token=0.1,
        peak_rss_bytes=1 << 20,
        tokens=list(tokens),
        text_sha256="",
        storage_bytes_per_token=None,
        hit_rate=0.5,
        read_bytes_per_token=read_bytes,
        stall_s_per_token=stall_s,
        expert_memory_bytes=1 << 20,
        precision="exact",
    )


def test_token_time_between_the_bound_and_the_sum() -> None:
    roofline = Roofline(compute_s=0.04, io_s=0.1, token_s=0.12)
    assert roofline.max_s == 0.1
    assert math.isclose(roofline.sum_s, 0.14)
    assert math.isclose(roofline.over_max, 1.2)
    assert roofline.position is not None
    assert math.isclose(roofline.position, 0.5)


def test_no_position_where_bound_and_sum_are_the_same() -> None:
    assert Roofline(compute_s=0.04, io_s=0.001, token_s=0.05).position is None


def test_compute_time_is_that_of_the_resident_run() -> None:
    runs = [
        Run(RESIDENT, measured(20)),
        Run(HALF, measured(5, read_bytes=100e6)),
        Run(RESIDENT, measured(30)),
        Run(HALF, measured(4, read_bytes=100e6)),
        Run(RESIDENT, measured(25)),
        Run(HALF, measured(8, read_bytes=100e6)),
    ]
    resident, half = figures_of(runs, drive_bytes_s=1e9)
    assert resident.roofline is None
    assert (half.decode_tok_s, half.decode_tok_s_min, half.decode_tok_s_max) == (5, 4, 8)
    assert half.roofline == Roofline(compute_s=1 / 25, io_s=0.1, token_s=0.2)
    assert not half.compute_is_estimate
    assert half.achieved_bytes_s == 500e6
    assert half.drive_share == 0.5


def test_compute_time_without_a_resident_run_is_an_estimate() -> None:
    (half,) = figures_of([Run(HALF, measured(5, read_bytes=100e6, stall_s=0.15))], drive_bytes_s=1e9)
    assert half.compute_is_estimate
    assert half.roofline is not None
    assert math.isclose(half.roofline.compute_s, 0.05)


def test_no_drive_no_roofline_and_a_failed_run_counts_for_nothing() -> None:
    runs = [Run(HALF, None, "It broke."), Run(HALF, measured(5, read_bytes=1.0))]
    (half,) = figures_of(runs, drive_bytes_s=None)
    assert half.roofline is None
    assert half.drive_share is None
    assert half.decode_tok_s == 5


def test_exact_runs_must_agree_as_far_as_both_decoded() -> None:
    check_exact([Run(RESIDENT, measured(1, tokens=(1, 2, 3))), Run(HALF, measured(1, tokens=(1, 2)))])
    with pytest.raises(HobbitError, match=r"half.*all experts resident"):
        check_exact([Run(RESIDENT, measured(1, tokens=(1, 2, 3))), Run(HALF, measured(1, tokens=(1, 3)))])
    mixed = dataclasses.replace(HALF, precision="mixed")
    check_exact([Run(RESIDENT, measured(1, tokens=(1, 2))), Run(mixed, measured(1, tokens=(3, 4)))])


@pytest.mark.parametrize("router_filter", [Reroute(0.15, fall=0.01), Substitute(0.5)], ids=repr)
def test_a_job_survives_its_way_to_the_child(router_filter: RouterFilter) -> None:
    job = Job("m.gguf", "t.txt", {"memory": "1GiB", "n_threads": 2}, RunShape(n_prompt=3, max_decode_s=1.5))
    assert Job.from_json(job.to_json()) == job
    endless = Job("m.gguf", "t.txt")
    assert Job.from_json(endless.to_json()) == endless
    by_hand = dataclasses.replace(job, policy=WeightThresholds(0.3, fall=0.01), router_filter=router_filter)
    assert Job.from_json(by_hand.to_json()) == by_hand


def test_settings_of_mixed_mode_are_for_its_runs_alone() -> None:
    mixed = MixedSetup(lo="lo.gguf", hi="hi.gguf", policy=WeightThresholds(0.3), router_filter=Substitute(0.5))
    setup = Setup(Path("m.gguf"), Path("t.txt"), None, RunShape(), mixed=mixed)
    exact, job = setup.job(HALF), setup.job(dataclasses.replace(HALF, precision="mixed"))
    assert (exact.policy, exact.router_filter) == (None, None)
    assert not exact.keywords.keys() & {"lo", "hi", "lo_share"}
    assert (job.policy, job.router_filter) == (mixed.policy, mixed.router_filter)
    assert (job.keywords["lo"], job.keywords["hi"]) == ("lo.gguf", "hi.gguf")
    assert "lo_share" not in job.keywords


def test_memory_load_uses_the_cores_of_another_process_and_ends() -> None:
    def children_s() -> float:
        return sum(os.times()[2:4])

    n_threads, own_s, before_s = threading.active_count(), time.process_time(), children_s()
    with memory_load(1, 1.0):
        time.sleep(0.5)
        assert threading.active_count() == n_threads
    assert children_s() - before_s > 0.25  # counted once it has ended
    assert time.process_time() - own_s < 0.2
    before_s = children_s()
    with memory_load(2, 0):
        pass
    assert children_s() == before_s
    with pytest.raises(ValueError, match="expected 0 to 1"), memory_load(1, 1.5):
        pass


def test_drive_is_measured_on_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(4 << 20))
    one = measure_random_reads(path, 100_000, n_threads=2, duration_s=0.05)
    assert one > 0
    assert best_random_reads(path, 100_000, (1, 2), 0.05) > 0
    with pytest.raises(DriveError, match="too small"):
        measure_random_reads(path, 8 << 20, n_threads=1, duration_s=0.05)
    with pytest.raises(OSError, match="No such file"):
        measure_random_reads(tmp_path / "nowhere", 4096, n_threads=1, duration_s=0.05)
