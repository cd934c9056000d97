"""Many conversations with two models in one process: memory, handles and speed stay as they are.

Speed is tokens by processor time, which other processes on the machine hardly change.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from support import ArenaSize, arena_bytes, make_prompt
from tiny_models import write_model

import hobbit_py
from hobbit_py.bundled import bundled_model

from .process import MIB, Holdings, growth

_MAX_GROWTH_BYTES = 4 * MIB
_MAX_SLOWDOWN = 1.25
_SECOND_EVERY = 5  # conversations with the first model for one with the second
_TEXT = Path(__file__).parents[1] / "data" / "excerpt.txt"


def run(options: argparse.Namespace) -> int:
    text = _TEXT.read_text(encoding="utf-8")
    n_each = -(-options.tokens // options.conversations)
    held: list[Holdings] = []
    speeds: list[float] = []
    n_tokens = n_tokens_second = 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hobbit-long.") as folder:
        second_path = write_model(Path(folder) / "second.gguf", "qwen3moe")
        with (
            closing(hobbit_py.Llama(options.model, expert_memory="8MiB", n_ctx=512, n_threads=1)) as first,
            closing(
                hobbit_py.Llama(
                    second_path, expert_memory=arena_bytes(second_path, ArenaSize.QUARTER), n_ctx=512, n_threads=1
                )
            ) as second,
        ):
            for i in range(options.conversations):
                place = (i * 997) % (len(text) - 400)
                prompt = first.tokenize(text[place : place + 200].encode())
                first.set_seed(options.seed + i)
                began = time.process_time()
                n_made = sum(1 for _ in itertools.islice(first.generate(prompt, temp=0.8), n_each))
                speeds.append(n_made / (time.process_time() - began))
                n_tokens += n_made
                first.reset()
                if i % _SECOND_EVERY == 0:
                    random_prompt = make_prompt(20, seed=options.seed + i)
                    n_tokens_second += sum(1 for _ in itertools.islice(second.generate(random_prompt), n_each))
                    second.reset()
                for llama in (first, second):
                    assert llama._engine is not None
                    llama._engine.check_invariants()
                held.append(Holdings.now())
    quarter = len(speeds) // 4
    early, late = (statistics.median(part) for part in (speeds[quarter : 2 * quarter], speeds[-quarter:]))
    broken = growth(held, _MAX_GROWTH_BYTES)
    if late * _MAX_SLOWDOWN < early:
        broken.append(f"speed fell from {early:.0f} to {late:.0f} tokens a second of processor time")
    print(
        f"long-run: {n_tokens} tokens in {options.conversations} conversations, {n_tokens_second} with a second model, "
        f"seed {options.seed}, {time.monotonic() - start:.0f} s"
    )
    print(f"  after a quarter: {held[quarter]}, {early:.0f} tokens a second of processor time")
    print(f"  at the end:      {held[-1]}, {late:.0f}")
    for sentence in broken:
        print(f"  BROKEN: {sentence}")
    return 1 if broken else 0


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--model", type=Path, default=bundled_model())
    return run
