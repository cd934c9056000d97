"""Sixteen threads over the loader and a tiny cache, with failing reads and steps given up, for as long as is wanted.

Runs the native test of that name, which is built under build/ as the test suite does; --sanitizer address or thread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[2]
_KINDS = {
    "plain": ["-DHOBBIT_WERROR=ON"],
    "address": ["-DHOBBIT_SANITIZE=address", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -g1"],
    "thread": ["-DHOBBIT_SANITIZE=thread", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -g1"],
}


def run(options: argparse.Namespace) -> int:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake, ninja = shutil.which("cmake", path=path), shutil.which("ninja", path=path)
    if cmake is None or ninja is None:
        print("stress: cmake and ninja are needed; install the package with its extra [test].", file=sys.stderr)
        return 2
    build = PROJECT_DIR / "build" / f"stress-{options.sanitizer}"
    make = [cmake, f"-S{PROJECT_DIR}", f"-B{build}", "-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    make += ["-DHOBBIT_BUILD_TESTS=ON", "-DHOBBIT_BUILD_PYTHON=OFF", f"-DHOBBIT_DOWNLOAD_DIR={PROJECT_DIR / 'build'}"]
    for command in (
        [*make, f"-DPython3_EXECUTABLE={sys.executable}", *_KINDS[options.sanitizer]],
        [cmake, "--build", str(build), "--target", "hobbit_tests_core", "-j", str(options.jobs)],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    environment = {
        **os.environ,
        "HOBBIT_STRESS_S": str(options.seconds // 2),  # for each of its two cases
        "HOBBIT_STRESS_SEED": str(options.seed),
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    start = time.monotonic()
    (program,) = build.rglob("hobbit_tests_core")
    status = subprocess.run([program, "--source-file=*/test_loader_stress.cpp"], env=environment, check=False)
    print(f"stress: {options.sanitizer}, seed {options.seed}, {time.monotonic() - start:.0f} s: {status.returncode}")
    return status.returncode


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--sanitizer", choices=list(_KINDS), default="plain")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compilers at once")
    return run
