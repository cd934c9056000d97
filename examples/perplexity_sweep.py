"""Perplexity and bytes read of exact and of mixed precision, for several types of lo copies of the bundled model.

python examples/perplexity_sweep.py [--tokens 256] [--lo Q2_K --lo Q4_0]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hobbit_py import Llama
from hobbit_py.bundled import bundled_model, sample_text
from hobbit_py.evaluate import evaluate, windows_of
from hobbit_py.pack import pack

WINDOW = 128


def report(name: str, model: Path, n_tokens: int, **keywords: Any) -> None:
    llama = Llama(model, expert_memory="8MiB", n_ctx=WINDOW, **keywords)
    windows = windows_of(llama, sample_text().read_bytes(), WINDOW, max_tokens=n_tokens)
    found = evaluate(llama, windows)
    llama.close()
    print(f"{name:<16} perplexity {found.perplexity:7.2f}   {found.read_bytes_per_token / 1e6:6.2f} MB a token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--lo", action="append", help="types of lo copies (Q2_K and Q4_0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(shutil.copy(bundled_model(), folder))
        report("exact", model, options.tokens, precision="exact")
        for lo in options.lo or ["Q2_K", "Q4_0"]:
            report(f"mixed with {lo}", model, options.tokens, precision="mixed", lo=pack(model, lo))


if __name__ == "__main__":
    main()
