"""Damages small model files and looks at what becomes of each; exit code 1 if one was not taken well.

    python scripts/fuzz_files.py --count 10000 --seed 1

A damaged file must be refused with one sentence, or run and give the logits that stock llama.cpp computes from the same
bytes: no crash, no other exception, no more than 5 s of processor time or 1 GiB of memory. `--only 1234 --verbose`
repeats one file, `--keep folder` keeps those that went wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import select
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS)] if str(_TESTS) not in sys.path else []
os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a debugger for each abort takes seconds

from fuzz_trial import FAILED, WALL_S, Outcome, enter_worker, is_verbose, try_file  # noqa: E402
from gguf_anatomy import Gguf, read  # noqa: E402
from gguf_mutants import mutant  # noqa: E402
from tiny_models import write_model  # noqa: E402

_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
ORIGINALS = [
    ("qwen3moe", {"n_layer": 1, "chat_template": _TEMPLATE}),
    ("llama", {"n_layer": 2, "n_expert": 4, "quant": "F16", "experts_quant": "Q4_K"}),
    ("deepseek2", {"n_layer": 2, "n_expert": 8, "chat_template": _TEMPLATE}),
    ("gpt-oss", {"n_layer": 1}),
    ("qwen2moe", {"n_layer": 1, "n_expert": 40, "quant": "F32", "experts_quant": "Q4_0"}),
]


@dataclass(frozen=True)
class Trial:
    index: int
    kind: str
    outcome: Outcome


def originals(folder: Path) -> list[Gguf]:
    return [
        read(write_model(folder / f"{number}.gguf", arch, **options).read_bytes())  # type: ignore[arg-type]
        for number, (arch, options) in enumerate(ORIGINALS)
    ]


def _work(sound: Sequence[Gguf], seed: int, indices: Sequence[int], folder: Path, writing: int) -> None:
    baseline_bytes = enter_worker()
    path = folder / "mutant.gguf"
    if not is_verbose():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    with os.fdopen(writing, "w") as out:
        for index in indices:
            damaged = mutant(sound, seed, index)
            path.write_bytes(damaged.content)
            print(json.dumps([index, damaged.kind]), file=out, flush=True)
            outcome = try_file(path, baseline_bytes)
            print(json.dumps(dataclasses.asdict(outcome)), file=out, flush=True)


def _lines(reading: int) -> Iterator[str]:
    """Lines of a worker; ends when it died or has said nothing for too long."""
    buffer = b""
    while select.select([reading], [], [], WALL_S + 60)[0]:
        piece = os.read(reading, 1 << 16)
        if not piece:
            return
        *lines, buffer = (buffer + piece).split(b"\n")
        yield from (line.decode() for line in lines)


def trials(sound: Sequence[Gguf], seed: int, indices: Sequence[int], folder: Path) -> Iterator[Trial]:
    """A worker that dies of a file is followed by another, which goes on with the next one."""
    left = list(indices)
    while left:
        reading, writing = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.close(reading)
            try:
                _work(sound, seed, left, folder, writing)
            finally:
                os._exit(0)
        os.close(writing)
        pending: tuple[int, str] | None = None
        for line in _lines(reading):
            said = json.loads(line)
            if isinstance(said, list):
                pending = (said[0], said[1])
                continue
            assert pending is not None
            left.remove(pending[0])
            yield Trial(*pending, Outcome(**said))
            pending = None
        os.close(reading)
        if left and pending is None:
            raise RuntimeError("the worker ended between two files")
        if left:
            os.kill(worker, 9)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        if pending is not None:
            left.remove(pending[0])
            yield Trial(*pending, Outcome(FAILED, "header", f"the process ended with {code}"))


def _report(counts: Counter[tuple[str, str]], n_failed: int) -> None:
    for (verdict, stage), n in sorted(counts.items()):
        print(f"{n:6} {verdict} ({stage})")
    print(f"{counts.total()} files, {n_failed} not taken well")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first number; for going on")
    parser.add_argument("--only", type=int, help="one number alone")
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    parser.add_argument("--verbose", action="store_true", help="shows what llama.cpp says")
    options = parser.parse_args()
    if options.verbose:
        os.environ["HOBBIT_FUZZ_VERBOSE"] = "1"
    indices = range(options.first, options.first + options.count) if options.only is None else [options.only]
    counts: Counter[tuple[str, str]] = Counter()
    n_failed = 0
    with tempfile.TemporaryDirectory(prefix="hobbit-fuzz-") as name:
        sound = originals(Path(name))
        for trial in trials(sound, options.seed, indices, Path(name)):
            counts[trial.outcome.verdict, trial.outcome.stage] += 1
            if counts.total() % 1000 == 0:
                print(f"{counts.total()} files ...", file=sys.stderr, flush=True)
            if trial.outcome.is_good and options.only is None:
                continue
            n_failed += not trial.outcome.is_good
            print(f"{trial.index} ({trial.kind}): {trial.outcome.stage}: {trial.outcome.text}", flush=True)
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                content = mutant(sound, options.seed, trial.index).content
                (options.keep / f"{options.seed}-{trial.index}.gguf").write_bytes(content)
    _report(counts, n_failed)
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
