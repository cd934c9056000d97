"""All checks of this script in turn, then damaged files, other files' parsers, the sanitizers and valgrind: many hours.

Goes on after one that broke, and ends with a line for each.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]


def commands(share: float, seed: int) -> dict[str, list[str]]:
    """Of each check by its name, with `share` of the counts that docs/reliability.md has."""

    def count(whole: int, least: int = 8) -> str:
        return str(max(least, round(whole * share)))

    checks = {
        "faults": ["--count", count(1000)],
        "property": ["--count", count(500)],
        "kill": ["--step", str(max(1, round(1 / share)))],
        "stress": ["--seconds", count(600)],
        "long-run": ["--tokens", count(20_000, 800), "--conversations", count(200)],
        "contexts": ["--count", count(500)],
        "platforms": [],
    }
    checks_script = [sys.executable, str(SCRIPTS / "reliability.py")]
    seeded = ["--seed", str(seed)]
    found = {name: [*checks_script, name, *arguments, *seeded] for name, arguments in checks.items()}
    found["stress, TSan"] = [*found["stress"], "--sanitizer", "thread"]
    found["damaged files"] = [sys.executable, str(SCRIPTS / "fuzz_files.py"), "--count", count(10_000), *seeded]
    how = "--runs" if importlib.util.find_spec("atheris") else "--random"  # not guided by coverage
    found["parsers"] = [sys.executable, str(SCRIPTS / "fuzz_parsers.py"), "all", how, count(3000), *seeded]
    for name in ("test_sanitized", "test_valgrind"):
        found[name] = [str(SCRIPTS / name)]
    return found


def run(options: argparse.Namespace) -> int:
    environment = {"HOBBIT_VENV": sys.prefix, **os.environ}
    found = commands(options.share, options.seed)
    results = {}
    for name in options.part or found:
        start = time.monotonic()
        status = subprocess.run(found[name], env=environment, check=False).returncode
        results[name] = f"{'right' if status == 0 else f'BROKEN, {status}'}, {time.monotonic() - start:.0f} s"
        print(f"all: {name}: {results[name]}", flush=True)
    print("\n".join(f"{name:>16}: {result}" for name, result in results.items()))
    return int(any("BROKEN" in result for result in results.values()))


def share(text: str) -> float:
    """A share above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    names = list(commands(1.0, 1))
    parser.add_argument("--share", type=share, default=1.0, help="of every count; 0.01 for a try")
    parser.add_argument("--part", action="append", choices=names, help="this alone; may be given again")
    return run
