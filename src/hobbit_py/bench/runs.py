"""The runs of `hobbit bench`: which budgets and precisions, one child process each, and their figures."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HobbitError
from ..policies import Reroute, Substitute, WeightThresholds
from .child import MODULE, Job
from .decode import Measurement, RunShape
from .roofline import Roofline

_EVERYTHING_BYTES = 1 << 62  # more than any model: as much as all experts take


@dataclass(frozen=True)
class Budget:
    """The memory of a run: of the whole process or of the experts alone, one of the two."""

    label: str
    memory: int | str | None = None
    expert_memory: int | None = None
    resident: bool = False
    """Every expert has room, and is loaded before anything is measured."""

    @classmethod
    def everything(cls) -> Budget:
        """Room for all experts: what computing alone takes."""
        return cls("all experts resident", expert_memory=_EVERYTHING_BYTES, resident=True)


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    budget: Budget
    precision: str
    """"exact" or "mixed"."""


@dataclass(frozen=True)
class MixedSetup:
    """What runs in mixed mode have in common: files of copies, and settings given by hand; None leaves one open."""

    lo: str | None = None
    hi: str | None = None
    policy: WeightThresholds | None = None
    lo_share: float | None = None
    router_filter: Reroute | Substitute | None = None


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    model: Path
    text: Path
    n_threads: int | None
    """None: as many as a model takes by itself."""
    shape: RunShape
    preset: str = "auto"
    mixed: MixedSetup = MixedSetup()

    def job(self, case: Case) -> Job:
        """The case as a child process gets it."""
        keywords: dict[str, Any] = {
            "precision": case.precision,
            "preset": self.preset,
        }
        if self.n_threads is not None:
            keywords["n_threads"] = self.n_threads
        if case.budget.memory is not None:
            keywords["memory"] = case.budget.memory
        if case.budget.expert_memory is not None:
            keywords["expert_memory"] = case.budget.expert_memory
        shape = dataclasses.replace(self.shape, wait_for_fill=case.budget.resident)
        job = Job(str(self.model), str(self.text), keywords, shape)
        if case.precision != "mixed":
            return job
        given = {"lo": self.mixed.lo, "hi": self.mixed.hi, "lo_share": self.mixed.lo_share}
        keywords |= {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(job, policy=self.mixed.policy, router_filter=self.mixed.router_filter)


@dataclass(frozen=True)
class Run:
    """One child process; `failure` is a sentence where there is no measurement."""

    case: Case
    measurement: Measurement | None
    failure: str = ""


def run_case(setup: Setup, case: Case) -> Run:
    """Runs one case in a process of its own and waits for it."""
    done = subprocess.run(
        [sys.executable, "-m", MODULE], input=setup.job(case).to_json(), capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return Run(case, Measurement(**json.loads(done.stdout)))
    lines = done.stderr.strip().splitlines()
    return Run(case, None, lines[-1] if lines else f"The run ended with exit code {done.returncode}.")


@dataclass(frozen=True)
class Figures:
    """A case over its repetitions: medians, and the range of what varies most. Seconds, bytes, tokens per second."""

    case: Case
    decode_tok_s: float
    decode_tok_s_min: float
    decode_tok_s_max: float
    prompt_tok_s: float
    load_s: float
    first_token_s: float
    read_bytes_per_token: float | None
    achieved_bytes_s: float | None
    drive_share: float | None
    """Of the bandwidth measured between the runs; above 1 where the drive was faster during a run."""
    hit_rate: float | None
    stall_s_per_token: float | None
    cpu_s_per_token: float
    peak_rss_bytes: int
    expert_memory_bytes: int | None
    roofline: Roofline | None
    compute_is_estimate: bool
    """The roofline's compute time is this case's token time less its stalls, for want of a run without misses."""


def figures_of(runs: Sequence[Run], drive_bytes_s: float | None) -> list[Figures]:
    """One entry for each case that was measured, in the order of the runs."""
    measured: dict[Case, list[Measurement]] = {}
    for run in runs:
        if run.measurement is not None:
            measured.setdefault(run.case, []).append(run.measurement)
    resident = [1 / m.decode_tok_s for case, group in measured.items() if case.budget.resident for m in group]
    compute_s = statistics.median(resident) if resident else None
    return [_figures(case, group, drive_bytes_s, compute_s) for case, group in measured.items()]


def _figures(case: Case, group: Sequence[Measurement], drive_bytes_s: float | None, compute_s: float | None) -> Figures:
    speeds = [m.decode_tok_s for m in group]
    token_s = 1 / statistics.median(speeds)
    read_bytes = _median([m.read_bytes_per_token for m in group])
    stall_s = _median([m.stall_s_per_token for m in group])
    is_estimate = compute_s is None and stall_s is not None
    if is_estimate:
        assert stall_s is not None
        compute_s = token_s - stall_s
    roofline = None
    if not case.budget.resident and compute_s is not None and read_bytes is not None and drive_bytes_s:
        roofline = Roofline(compute_s, read_bytes / drive_bytes_s, token_s)
    return Figures(
        case=case,
        decode_tok_s=1 / token_s,
        decode_tok_s_min=min(speeds),
        decode_tok_s_max=max(speeds),
        prompt_tok_s=statistics.median(m.prompt_tok_s for m in group),
        load_s=statistics.median(m.load_s for m in group),
        first_token_s=statistics.median(m.first_token_s for m in group),
        read_bytes_per_token=read_bytes,
        achieved_bytes_s=None if read_bytes is None else read_bytes / token_s,
        drive_share=read_bytes / token_s / drive_bytes_s if read_bytes is not None and drive_bytes_s else None,
        hit_rate=_median([m.hit_rate for m in group]),
        stall_s_per_token=stall_s,
        cpu_s_per_token=statistics.median(m.cpu_s_per_token for m in group),
        peak_rss_bytes=max(m.peak_rss_bytes for m in group),
        expert_memory_bytes=group[0].expert_memory_bytes,
        roofline=roofline,
        compute_is_estimate=is_estimate and roofline is not None,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def check_exact(runs: Sequence[Run]) -> None:
    """Raises HobbitError if two exact runs decoded different tokens: they may differ in speed alone."""
    exact = [run for run in runs if run.case.precision == "exact" and run.measurement is not None]
    for run in exact[1:]:
        first, other = exact[0].measurement, run.measurement
        assert first is not None
        assert other is not None
        if any(a != b for a, b in zip(first.tokens, other.tokens, strict=False)):
            raise HobbitError(
                f"Exact mode gave other tokens with {run.case.budget.label} than with {exact[0].case.budget.label}, "
                "which must never happen; please report it with the model's name and the command."
            )
