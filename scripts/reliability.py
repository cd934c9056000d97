#!/usr/bin/env python3
"""Checks that take too long for the test suite: faults, kills, random models, long runs.

    scripts/reliability.py all
    scripts/reliability.py faults --count 1000 --seed 1

Each check prints what it counted and ends with 1 if something broke; a seed and a number repeat a case.
docs/reliability.md has what came out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

# libgomp reads this when it is loaded. Spinning threads of two models in one process would take each other's cores.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "tests")]

CHECKS = {
    "faults": "faults",
    "property": "exactness",
    "kill": "kill",
    "stress": "stress",
    "long-run": "long_run",
    "contexts": "contexts",
    "platforms": "platforms",
    "all": "everything",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    checks = parser.add_subparsers(dest="check", required=True)
    runners = {}
    for name, module_name in CHECKS.items():
        module = importlib.import_module(f"reliability_checks.{module_name}")
        summary = (module.__doc__ or "").partition("\n")[0]
        check = checks.add_parser(name, help=summary, description=module.__doc__)
        check.add_argument("--seed", type=int, default=1)
        runners[name] = module.add_options(check)
    options = parser.parse_args()
    status: int = runners[options.check](options)
    return status


if __name__ == "__main__":
    sys.exit(main())
