"""SIGKILL at every call that changes a file, during pack, tune, trace, pull and whatever else is kept on the drive.

Afterwards there is the old file or the new one, the program reads it as such, and the same command, run again, ends
with the new one. What a killed process leaves under hidden names is counted.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_hub import FakeHub, serve_hub

from .kill_cases import CASES, NEW, OLD, Case, Pull
from .preload import FOREVER, PRELOADED, run_preloaded


def in_child(work: Callable[[], None]) -> int:
    """What a forked process that does this work ends with: 0, 1 if it raised, minus the signal that killed it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def hub_process() -> Iterator[str]:
    """The URL of a hub with a model in two parts; a process of its own, since this one forks."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        parts = {f"Q8_0/m-Q8_0-0000{i}-of-00002.gguf": os.urandom(1 << 20) for i in (1, 2)}
        with serve_hub(FakeHub({"someone/Model-GGUF": parts})) as hub:
            os.write(writer, hub.url.encode())
            os.close(writer)
            while True:
                signal.pause()
    os.close(writer)
    try:
        yield os.read(reader, 1000).decode()
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Sweep:
    """One case, begun with nothing or with an old state, killed at each call in turn."""

    def __init__(self, library: ctypes.CDLL, case_type: type[Case], before: int, folder: Path) -> None:
        self.library, self.case_type, self.before, self.folder = library, case_type, before, folder
        self.counts: Counter[str] = Counter()
        self.contents: dict[int, bytes] = {}

    def run(self, step: int) -> None:
        for state in {self.before, NEW} - {0}:
            case = self._new_case(f"state-{state}", 0)
            self._must(in_child(lambda c=case, s=state: c.write(s)), f"writing state {state}")  # type: ignore[misc]
            self.contents[state] = case.path().read_bytes()
        at, ended = 0, False
        while not ended:
            ended = self._kill(at)
            at += step

    def _new_case(self, name: str, before: int) -> Case:
        folder = self.folder / name
        folder.mkdir()
        case = self.case_type(folder)
        self._must(in_child(case.prepare), "preparing")
        if before:
            self._must(in_child(lambda: case.write(before)), "writing the old state")
        return case

    def _kill(self, at: int) -> bool:
        """True if the command ended before the call."""
        case = self._new_case(f"killed-at-{at}", self.before)

        def write_and_die() -> None:
            self.library.kill_script(str(case.folder).encode(), ctypes.c_uint64(at))
            case.write(NEW)

        status = in_child(write_and_die)
        if status not in (0, -signal.SIGKILL):
            raise AssertionError(f"killed at call {at}, the command ended with {status}")
        state = self._state_of(case, at)
        self.counts["kills" if status else "runs to the end"] += 1
        self.counts[f"then: {'nothing' if state == 0 else 'old' if state == OLD else 'new'}"] += 1 if status else 0
        if status == 0 and state != NEW:
            raise AssertionError(f"not killed, and state {state} is there")
        self._must(in_child(lambda: case.write(NEW)), f"killed at call {at}, and run again")
        if self._state_of(case, at) != NEW:
            raise AssertionError(f"killed at call {at}, run again, and the new state is not there")
        known = {case.path().name, "model.gguf", "model.lo-Q4_0.gguf"}
        left = [path for path in case.folder.iterdir() if path.is_file() and path.name not in known]
        self.counts["left under another name"] += len(left)
        if visible := [path.name for path in left if not path.name.startswith(".")]:
            raise AssertionError(f"killed at call {at}, run again: {visible} is left")
        return status == 0

    def _state_of(self, case: Case, at: int) -> int:
        content = case.path().read_bytes() if case.path().exists() else None
        found = [s for s in (self.before, NEW) if content == self.contents.get(s)]
        if not found:
            raise AssertionError(f"killed at call {at}: neither the old nor the new content is there")

        def check() -> None:
            assert case.check_usable(found[0]), f"killed at call {at}: state {found[0]} is not read as such"

        self._must(in_child(check), f"killed at call {at}")
        return found[0]

    @staticmethod
    def _must(status: int, what: str) -> None:
        if status != 0:
            raise AssertionError(f"{what}: ended with {status}")


def run(options: argparse.Namespace) -> int:
    status = run_preloaded("kill_at", sys.argv)
    if status is not None:
        return status
    library = ctypes.CDLL(os.environ[PRELOADED])
    library.kill_script(b"", ctypes.c_uint64(FOREVER))
    cases = [case for case in CASES if not options.case or case.name in options.case]
    n_broken = 0
    with tempfile.TemporaryDirectory(prefix="hobbit-kill.") as folder, hub_process() as url:
        Pull.url = url
        for case in cases:
            for before in case.begins_with:
                start = time.monotonic()
                sweep = Sweep(library, case, before, Path(folder) / f"{case.name.replace(' ', '-')}-{before}")
                sweep.folder.mkdir()
                what = f"{case.name} over {'an old file' if before else 'nothing'}"
                try:
                    sweep.run(options.step)
                except AssertionError as error:
                    n_broken += 1
                    print(f"{what}: BROKEN: {error}")
                counts = ", ".join(f"{count} {name}" for name, count in sorted(sweep.counts.items()))
                print(f"kill: {what}: {counts}; {time.monotonic() - start:.0f} s")
    return 1 if n_broken else 0


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    names = [case.name for case in CASES]
    parser.add_argument("--case", action="append", choices=names, help="this alone; may be given again")
    parser.add_argument("--step", type=int, default=1, help="kill at every n-th call")
    return run
