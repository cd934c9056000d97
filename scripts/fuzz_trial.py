"""What becomes of one damaged model file, under limits, in processes that may die of it.

A worker looks at file after file as far as the header's checks go. A file that passes them is run by a fork of the
worker: loaded, a prompt and two tokens computed, by us and then by stock llama.cpp, whose logits ours must equal.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support import stock_llama

import hobbit_py
from hobbit_py.inspection import inspect_model
from hobbit_py.memory import resident_bytes

CPU_S = 5
WALL_S = 7200  # of one file: the machine may have other work, or stop for it; what counts is processor time
MORE_BYTES = 1 << 30
_MORE_ADDRESS_BYTES = 4 << 30  # ends what would take the machine's memory; what counts is what was resident
_N_CTX = 64
_BUDGET_BYTES = 512 << 20
_TEXT = "It was a dog, \u72ac, not a caf\xe9.".encode() + b"\xff"  # letters of one byte to three, and no letter

REFUSED, RAN, FAILED = "refused", "ran", "failed"


@dataclass(frozen=True)
class Outcome:
    """`stage` is header, model or stock; `text` the error's sentence, or what was wrong."""

    verdict: str
    stage: str
    text: str = ""

    @property
    def is_good(self) -> bool:
        return self.verdict != FAILED


def peak_bytes() -> int:
    """The most that was resident since `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _limit_cpu() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + CPU_S + 1, resource.RLIM_INFINITY))


def limit_memory() -> None:
    address_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_bytes + _MORE_ADDRESS_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _judged(stage: str, action: Callable[[], str], baseline_bytes: int) -> Outcome:
    """Runs it under the limits; only errors of ours, of one sentence, are good ones."""
    _limit_cpu()
    start_s = time.process_time()
    forget_peak()
    try:
        outcome = Outcome(RAN, stage, action())
    except (hobbit_py.ModelFileError, hobbit_py.MemoryBudgetError) as error:
        text = str(error)
        sound = text.endswith(".") and "\n" not in text and len(text) < 2000
        outcome = Outcome(REFUSED if sound else FAILED, stage, text)
    except BaseException:
        outcome = Outcome(FAILED, stage, traceback.format_exc())
    if (more_bytes := peak_bytes() - baseline_bytes) > MORE_BYTES:
        return Outcome(FAILED, stage, f"took {more_bytes >> 20} MiB")
    if (cpu_s := time.process_time() - start_s) > CPU_S:
        return Outcome(FAILED, stage, f"took {cpu_s:.1f} s")
    return outcome


def _read_header(path: Path) -> str:
    inspect_model(path)
    return ""


def _digest(logits: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()


def _evaluate(llama: hobbit_py.Llama) -> str:
    n_vocab = llama.n_vocab()
    tokens = [token * 31 % n_vocab for token in range(11)]
    llama.detokenize(llama.tokenize(_TEXT, special=True))
    llama.eval(tokens)
    for token in tokens[:2]:
        llama.eval([token])
    return _digest(llama.scores[: llama.n_tokens])


def _run_ours(path: Path) -> str:
    memory = resident_bytes() + _BUDGET_BYTES
    llama = hobbit_py.Llama(
        path, memory=memory, n_ctx=_N_CTX, n_threads=1, logits_all=True, precision="exact", verbose=is_verbose()
    )
    try:
        return _evaluate(llama)
    finally:
        llama.close()


def _run_stock(path: Path) -> str:
    with stock_llama(path, n_ctx=_N_CTX) as llama:
        return _evaluate(llama)


def is_verbose() -> bool:
    return "HOBBIT_FUZZ_VERBOSE" in os.environ


def _run_forked(path: Path, baseline_bytes: int) -> Outcome:
    """Ours and the stock model's, in a fork that reports each as a line."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with os.fdopen(writing, "w") as out:
                for stage, run in (("model", _run_ours), ("stock", _run_stock)):
                    outcome = _judged(stage, lambda run=run: run(path), baseline_bytes)
                    print(json.dumps(dataclasses.asdict(outcome)), file=out, flush=True)
                    if outcome.verdict != RAN:
                        break
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(WALL_S)
    with os.fdopen(reading) as lines:
        found = [Outcome(**json.loads(line)) for line in lines]
    status = os.waitpid(child, 0)[1]
    signal.alarm(0)
    return _compare(found, os.waitstatus_to_exitcode(status))


def _compare(found: list[Outcome], code: int) -> Outcome:
    if not found:
        return Outcome(FAILED, "model", f"the process ended with {code}")
    ours = found[0]
    if ours.verdict != RAN:
        return ours
    if len(found) == 1:
        return Outcome(FAILED, "stock", f"runs, but stock llama.cpp ended with {code}")
    if found[1].verdict != RAN:
        return Outcome(FAILED, "stock", f"runs, but stock llama.cpp said: {found[1].text}")
    if found[1].text != ours.text:
        return Outcome(FAILED, "stock", "runs, but the logits are not those of stock llama.cpp")
    return ours


def try_file(path: Path, baseline_bytes: int) -> Outcome:
    outcome = _judged("header", lambda: _read_header(path), baseline_bytes)
    return _run_forked(path, baseline_bytes) if outcome.verdict == RAN else outcome


def enter_worker() -> int:
    """Sets the limits of this process; returns what is resident before any file."""
    faulthandler.enable(file=sys.stderr) if is_verbose() else faulthandler.disable()
    limit_memory()
    return resident_bytes()
