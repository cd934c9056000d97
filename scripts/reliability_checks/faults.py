"""Faults of the drive while a model computes: a request is right or ends with a sentence, and the next one works.

Reads fail by the preloaded library, files are really truncated, overwritten, replaced and deleted while they are open.
In exact mode every answer is compared with stock llama.cpp, bit for bit.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from support import ArenaSize, Logits, arena_bytes, eval_logits, make_prompt, stock_logits
from tiny_models import write_model

import hobbit_py

from .preload import ReadFaults, run_preloaded
from .schedules import ARCHS, PROMPTS, Schedule, make_schedule

_DECODE = make_prompt(3, seed=1)
_MAX_S = 60  # a schedule that takes longer hangs
_N_CTX = 256


class BrokenError(Exception):
    """What must never happen, happened."""


class Models:
    """A model of each architecture with a lo copy, and what stock llama.cpp computes with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._expected: dict[tuple[str, int], Logits] = {}
        for arch in ARCHS:
            write_model(self.hi(arch), arch)
            write_model(self.lo(arch), arch, experts_quant="Q4_0")

    def hi(self, arch: str) -> Path:
        return self.folder / f"{arch}.gguf"

    def lo(self, arch: str) -> Path:
        return self.folder / f"{arch}-lo.gguf"

    def expected(self, arch: str, n_prompt: int) -> Logits:
        key = arch, n_prompt
        if key not in self._expected:
            self._expected[key] = stock_logits(self.hi(arch), make_prompt(n_prompt), _DECODE, n_ctx=_N_CTX)
        return self._expected[key]


class Run:
    """One schedule: a model of its own copy, three requests with faults, one without."""

    def __init__(self, models: Models, faults: ReadFaults, schedule: Schedule, folder: Path) -> None:
        self.models, self.faults, self.schedule = models, faults, schedule
        self.counts: Counter[str] = Counter()
        self.hi = Path(shutil.copy(models.hi(schedule.arch), folder / "hi.gguf"))
        self.lo = Path(shutil.copy(models.lo(schedule.arch), folder / "lo.gguf")) if schedule.mixed else None
        self.hit = self.lo if self.lo is not None and schedule.lo_is_hit else self.hi

    def run(self) -> None:
        whole = arena_bytes(self.hi, ArenaSize.ALL)
        with closing(
            hobbit_py.Llama(
                self.hi,
                expert_memory=whole * self.schedule.memory_percent // 100,
                precision="mixed" if self.lo else "exact",
                lo=self.lo,
                prefetch=self.schedule.prefetch,
                n_ctx=_N_CTX,
                n_threads=1,
                logits_all=True,
            )
        ) as llama:
            for n_prompt, script in self.schedule.requests:
                self.faults.script(str(self.hit), script, self._do_file_event)
                self._request(llama, n_prompt, may_fail=True)
                self.counts["reads with a fault"] += self.faults.n_hit
                self.faults.clear()
            self._undo_file_event()
            for n_prompt in PROMPTS[:2]:
                self._request(llama, n_prompt, may_fail=False)
            self.counts["repeated reads"] += llama.stats().n_retries
            self.counts["experts answered from the lo copy"] += llama.stats().n_used_lo

    def _request(self, llama: hobbit_py.Llama, n_prompt: int, *, may_fail: bool) -> None:
        try:
            logits = eval_logits(llama, make_prompt(n_prompt), _DECODE)
        except hobbit_py.ReadError as error:
            self.counts["requests ended with a sentence"] += 1
            if not may_fail:
                raise BrokenError(f"a request failed after the drive was well again: {error}") from error
            sentence = str(error)
            if "\n" in sentence or not sentence.endswith(".") or str(self.hit) not in sentence:
                raise BrokenError(f"not a sentence that names the file: {sentence!r}") from error
        else:
            self.counts["requests answered"] += 1
            if self.lo is None and not np.array_equal(logits, self.models.expected(self.schedule.arch, n_prompt)):
                raise BrokenError(f"a wrong answer to {n_prompt} tokens")
            if not np.isfinite(logits).all():
                raise BrokenError(f"an answer to {n_prompt} tokens that is not a number")
        assert llama._engine is not None
        llama._engine.check_invariants()

    @cached_property
    def _original(self) -> tuple[bytes, os.stat_result]:
        return self.hit.read_bytes(), self.hit.stat()

    def _do_file_event(self) -> None:
        """Called by the thread of the read that it happens at."""
        event = self.schedule.file_event
        assert event is not None
        self.counts[f"file event: {event}"] += 1
        content, _ = self._original
        experts = [t for t in GGUFReader(self.models.hi(self.schedule.arch)).tensors if "_exps.weight" in t.name]
        first = min(int(t.data_offset) for t in experts)
        if event == "truncate":
            os.truncate(self.hit, first + 100)
        elif event == "overwrite":
            with self.hit.open("r+b") as file:
                file.seek(first)
                file.write(bytes(byte ^ 1 for byte in content[first:]))
        elif event == "replace":
            other = self.hit.with_suffix(".new")
            other.write_bytes(content[:first] + bytes(len(content) - first))
            other.replace(self.hit)
        else:
            self.hit.unlink()

    def _undo_file_event(self) -> None:
        """The same file again, time of its last change included: what has it open may go on."""
        if self.counts["file event: truncate"] or self.counts["file event: overwrite"]:
            content, stat = self._original
            with self.hit.open("r+b") as file:
                file.write(content)
            os.utime(self.hit, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def run(options: argparse.Namespace) -> int:
    status = run_preloaded("read_faults", sys.argv)
    if status is not None:
        return status
    faults = ReadFaults()
    numbers = range(options.count) if options.only is None else [options.only]
    totals: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hobbit-faults.") as folder:
        models = Models(Path(folder))
        for number in numbers:
            schedule = make_schedule(options.seed, number)
            run_folder = Path(folder) / f"run-{number}"
            run_folder.mkdir()
            faulthandler.dump_traceback_later(_MAX_S, exit=True)
            try:
                one = Run(models, faults, schedule, run_folder)
                one.run()
            except Exception as error:
                print(f"{schedule}\n-> {type(error).__name__}: {error}", file=sys.stderr)
                print(f"repeat with: scripts/reliability.py faults --seed {options.seed} --only {number}")
                totals["schedules that broke something"] += 1
                if not isinstance(error, BrokenError):
                    raise
            finally:
                faulthandler.cancel_dump_traceback_later()
            totals += one.counts
            shutil.rmtree(run_folder)
    print(f"faults: {len(numbers)} schedules, seed {options.seed}, {time.monotonic() - start:.0f} s")
    for name, count in sorted(totals.items()):
        print(f"  {count:6d} {name}")
    return 1 if totals["schedules that broke something"] else 0


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("--count", type=int, default=1000, help="schedules")
    parser.add_argument("--only", type=int, help="the schedule of this number alone")
    return run
