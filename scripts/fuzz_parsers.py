"""Fuzzes our own parsers, guided by what of their code an input reaches; ends at the first one that is not taken well.

    pip install atheris
    python scripts/fuzz_parsers.py trace --runs 100000 --seed 1

An input must not raise anything but the package's own errors, nor take 5 s or more than 1 GiB. It is written to a file
crash-..., which `--input` runs again. "all" gives every parser as many, each in a process of its own. With
`--random 1000` as many inputs are made of random bytes instead, without atheris.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS)]
_NAMES = ["lo", "imatrix", "old-imatrix", "trace", "tune", "bench", "hot-set", "request-traces", "hybrid", "gates"]
_LIMIT_MB = 1024
_LIMIT_S = 5


def fuzz_guided(options: argparse.Namespace, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["hobbit_py"]):
        from parser_targets import make_targets
    from hobbit_py.memory import resident_bytes

    target = make_targets(folder)[options.target]
    assert target.run(b"\1"), "the sound file is not taken"
    corpus = options.corpus or folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "sound").write_bytes(b"\1")
    (corpus / "file").write_bytes(b"\0" + target.sound[:4096])
    limit_mb = resident_bytes() // (1 << 20) + _LIMIT_MB
    arguments = [f"-runs={options.runs}", f"-seed={options.seed}", f"-rss_limit_mb={limit_mb}"]
    # libFuzzer's limit is of wall time, which says little on a machine with other work; `timed` has the real one.
    arguments += ["-timeout=3600", "-max_len=8192", "-print_final_stats=1", "-verbosity=0"]

    def timed(data: bytes) -> None:
        start_s = time.process_time()
        target.run(data)
        assert time.process_time() - start_s < _LIMIT_S

    atheris.Setup([sys.argv[0], *arguments, str(corpus)], timed)
    print(f"{options.target}:", flush=True)
    atheris.Fuzz()


def run_random(options: argparse.Namespace, folder: Path) -> None:
    from parser_targets import make_targets

    for name, target in make_targets(folder).items():
        if options.target not in (name, "all"):
            continue
        assert target.run(b"\1"), f"{name}: the sound file is not taken"
        n_taken = 0
        for index in range(options.random):
            rng = random.Random(f"{name} {options.seed} {index}")
            data = rng.randbytes(1 + rng.choice([4, 20, 100]))
            try:
                n_taken += target.run(data)
            except BaseException:
                print(f"{name}: input {index} of seed {options.seed}: {data!r}", flush=True)
                raise
        print(f"{name}: {options.random} inputs, {n_taken} taken, the others refused", flush=True)


def run_one(options: argparse.Namespace, folder: Path) -> None:
    from parser_targets import make_targets

    print("taken" if make_targets(folder)[options.target].run(options.input.read_bytes()) else "refused")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*_NAMES, "all"])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder of inputs to begin with and add to")
    parser.add_argument("--random", type=int, metavar="COUNT", help="random inputs instead of guided ones")
    parser.add_argument("--input", type=Path, help="runs one input")
    options = parser.parse_args()
    if options.target == "all" and options.random is None:
        common = ["--runs", str(options.runs), "--seed", str(options.seed)]
        codes = [subprocess.run([sys.executable, __file__, name, *common], check=False).returncode for name in _NAMES]
        return 1 if any(codes) else 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run = run_one if options.input is not None else run_random if options.random is not None else fuzz_guided
    with tempfile.TemporaryDirectory(prefix="hobbit-fuzz-") as folder:
        run(options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
