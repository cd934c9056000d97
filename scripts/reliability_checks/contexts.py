"""Models and contexts opened and closed many times in one process: memory and handles stay as they are."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from support import ArenaSize, arena_bytes, make_prompt
from tiny_models import write_model

import hobbit_py
from hobbit_py import _host

from .process import MIB, Holdings, growth

_MAX_GROWTH_BYTES = 4 * MIB
_ARCHS = ("qwen3moe", "llama", "gpt-oss")


def run(options: argparse.Namespace) -> int:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hobbit-contexts.") as folder:
        models = []
        for arch in _ARCHS:
            hi = write_model(Path(folder) / f"{arch}.gguf", arch)
            models.append((hi, write_model(Path(folder) / f"{arch}.lo.gguf", arch, experts_quant="Q4_0")))
        held = []
        for i in range(options.count):
            _use_model(*models[i % len(models)], i)
            held.append(Holdings.now())
        broken = _check("models", held)
        held = []
        with closing(hobbit_py.Llama(models[0][0], expert_memory=1 << 20, n_ctx=256, n_threads=1)) as llama:
            for _ in range(options.count):
                context = _host.new_context(llama._model, llama.context_params)
                context.close()
                held.append(Holdings.now())
        broken += _check("contexts of one model", held)
    print(f"contexts: {options.count} of each, {time.monotonic() - start:.0f} s")
    return 1 if broken else 0


def _use_model(hi: Path, lo: Path, number: int) -> None:
    mixed = number % 2 == 1
    memory = arena_bytes(hi, list(ArenaSize)[number % 3])
    options = {"expert_memory": memory, "precision": "mixed" if mixed else "exact", "lo": lo if mixed else None}
    with closing(hobbit_py.Llama(hi, n_ctx=256, n_threads=1, **options)) as llama:
        llama.eval(make_prompt(9, seed=number))


def _check(what: str, held: list[Holdings]) -> int:
    print(f"contexts: {what}: after a quarter {held[len(held) // 4]}; at the end {held[-1]}")
    broken = growth(held, _MAX_GROWTH_BYTES)
    for sentence in broken:
        print(f"  BROKEN: {sentence}")
    return len(broken)


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("--count", type=int, default=500)
    return run
