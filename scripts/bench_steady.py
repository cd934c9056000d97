"""Many tokens in one process: whether speed and memory stay what they were.

    python scripts/bench_steady.py model.gguf --memory 2GiB --tokens 5000
    sudo python scripts/memory_box.py --memory 2.2GiB -- python scripts/bench_steady.py model.gguf --memory 2GiB

The tokens of a text are evaluated one by one, as in decoding, in conversations of --window tokens with a reset between
them, so that attention is as short at the end as at the beginning. Prints a line for every thousand tokens and ends
with 1 if the last thousand is slower than the second one, or its memory larger, by more than --tolerance. The first
thousand fills the cache. With --distinct 1000 every thousand is the same tokens, so that a difference is not the
text's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sizes import parse_size

import hobbit_py
from hobbit_py.memory import resident_bytes
from hobbit_py.stats import format_share

SCRIPTS = Path(__file__).parent
BLOCK = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--memory", type=parse_size, required=True, help="budget of the process, e.g. 2GiB")
    parser.add_argument("--precision", default="auto", choices=["auto", "exact", "mixed"])
    parser.add_argument("--text", type=Path, default=SCRIPTS / "data" / "excerpt.txt")
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument(
        "--distinct", type=int, help="repeat that many tokens of the text, so that every round needs the same"
    )
    parser.add_argument("--window", type=int, default=500, help="tokens of a conversation (500)")
    parser.add_argument("--tolerance", type=float, default=0.03)
    options = parser.parse_args(arguments)
    try:
        llama = hobbit_py.Llama(options.model, memory=options.memory, precision=options.precision, n_ctx=options.window)
    except hobbit_py.HobbitError as error:
        print(f"bench_steady: {error}", file=sys.stderr)
        return 2
    text = llama.tokenize(options.text.read_bytes())[: options.distinct]
    tokens = (text * -(-options.tokens // len(text)))[: options.tokens]
    blocks = []
    for first in range(0, len(tokens), BLOCK):
        before, started = llama.stats(), time.perf_counter()
        for idx in range(first, min(first + BLOCK, len(tokens))):
            if idx % options.window == 0:
                llama.reset()
            llama.eval([tokens[idx]])
        n_tokens = min(BLOCK, len(tokens) - first)
        stats = llama.stats().since(before)
        blocks.append((n_tokens / (time.perf_counter() - started), resident_bytes()))
        print(
            f"{first + n_tokens:6} tokens: {blocks[-1][0]:6.2f} tok/s, {blocks[-1][1] / 2**20:.0f} MiB, "
            f"{format_share(stats.measured_hit_rate)} hits, {stats.read_bytes / n_tokens / 1e6:.1f} MB/token",
            flush=True,
        )
    llama.close()
    slower, larger = 1 - blocks[-1][0] / blocks[1][0], blocks[-1][1] / blocks[1][1] - 1
    print(f"from the second thousand to the last: {-slower:+.1%} speed, {larger:+.1%} memory")
    return 1 if max(slower, larger) > options.tolerance else 0


if __name__ == "__main__":
    sys.exit(main())
