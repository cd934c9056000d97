"""Speed with everything in memory, hobbit_py against stock llama-cpp-python, within one process.

    python scripts/compare_resident.py wide.gguf --rounds 36

Both are loaded and take turns, a prompt and some tokens each, in an order that changes: where the speed of a machine
changes by a tenth within a minute, processes that alternate say less. Both have as many threads, which spin as long.
Needs memory for two copies of the model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench_child import load_stock

import hobbit_py
from hobbit_py.bench.decode import text_tokens
from hobbit_py.cores import n_usable_cores

if TYPE_CHECKING:
    import llama_cpp

WARM_WINDOW, N_WARM = 511, 3  # tokens and windows, to have touched nearly every expert
EXPERT_ROOM = 1.05  # of the file: a slot is somewhat larger than its expert


def take_turn(model: llama_cpp.Llama, prompt: list[int], text: list[int]) -> tuple[float, float]:
    """Seconds for the prompt, and for the text token by token."""
    model.reset()
    started = time.perf_counter()
    model.eval(prompt)
    prompt_ended = time.perf_counter()
    for token in text:
        model.eval([token])
    return prompt_ended - started, time.perf_counter() - prompt_ended


def show(name: str, stock_s: Sequence[float], hobbit_s: Sequence[float], n_tokens: int) -> str:
    ratios = [stock / hobbit for stock, hobbit in zip(stock_s, hobbit_s, strict=True)]
    stock, hobbit = (n_tokens / statistics.median(seconds) for seconds in (stock_s, hobbit_s))
    return (
        f"{name}: stock {stock:.2f} tok/s, hobbit {hobbit:.2f}; "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
    )


def compare(options: argparse.Namespace) -> None:
    n_turn = options.prompt_tokens + options.decode
    n_ctx = max(WARM_WINDOW, n_turn) + 1
    hobbit = hobbit_py.Llama(
        str(options.model),
        precision="exact",
        expert_memory=int(options.model.stat().st_size * EXPERT_ROOM),
        n_ctx=n_ctx,
        verbose=False,
    )
    stock = load_stock(
        argparse.Namespace(model=str(options.model), batch=n_ctx, threads=n_usable_cores(), mmap=False), n_ctx
    )
    n_tokens = max(N_WARM * WARM_WINDOW, options.rounds * options.decode + options.prompt_tokens)
    tokens = text_tokens(hobbit, options.prompt_file.read_text(encoding="utf-8"), n_tokens)
    for model in (hobbit, stock):
        for first in range(0, N_WARM * WARM_WINDOW, WARM_WINDOW):
            model.reset()
            model.eval(tokens[first : first + WARM_WINDOW])
    seconds: dict[str, list[tuple[float, float]]] = {"hobbit": [], "stock": []}
    for round_idx in range(options.rounds):
        first = round_idx * options.decode
        prompt_end, end = first + options.prompt_tokens, first + n_turn
        turns = [("hobbit", hobbit), ("stock", stock)]
        for name, model in turns if round_idx % 2 else reversed(turns):
            seconds[name].append(take_turn(model, tokens[first:prompt_end], tokens[prompt_end:end]))
    for idx, (name, n_timed) in enumerate((("prompt", options.prompt_tokens), ("decode", options.decode))):
        print(show(name, [s[idx] for s in seconds["stock"]], [s[idx] for s in seconds["hobbit"]], n_timed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt-file", type=Path, default=Path(__file__).parent / "data" / "excerpt.txt")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="of a turn (64)")
    parser.add_argument("--decode", type=int, default=32, help="tokens of a turn behind the prompt (32)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each (20)")
    options = parser.parse_args()
    try:
        compare(options)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"compare_resident: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
