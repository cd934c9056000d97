"""One measured run in a process of its own: load, prompt, greedy decode; one JSON object on stdout.

    python scripts/bench_child.py stock model.gguf --prompt-file text.txt --prompt-tokens 64 --decode 128

Both engines are driven by the same loop: `eval` and the argmax of the last logits, so sampling costs are equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from sizes import parse_size


def load_stock(options: argparse.Namespace, n_ctx: int) -> llama_cpp.Llama:
    """Stock llama-cpp-python with plain weight buffers.

    Repacked ("extra") buffers are switched off: they change the rounding, so tokens could not be compared, and GCC 12
    builds crash in them on AMX machines. `Llama` has no keyword for it, hence the wrapped default parameters.
    """
    defaults = llama_cpp.llama_model_default_params

    def plain_buffers() -> llama_cpp.llama_model_params:
        params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_cpp.llama_model_default_params = plain_buffers
    return llama_cpp.Llama(
        options.model,
        n_ctx=n_ctx,
        n_batch=options.batch,
        n_threads=options.threads,
        n_threads_batch=options.threads,
        use_mmap=options.mmap,
        verbose=False,
    )


def load_hobbit(options: argparse.Namespace, n_ctx: int) -> llama_cpp.Llama:
    import hobbit_py  # only here: stock runs need no hobbit

    budget: dict[str, Any] = {}
    if options.memory is not None:
        budget["memory"] = options.memory
    if options.expert_memory is not None:
        budget["expert_memory"] = options.expert_memory
    model: llama_cpp.Llama = hobbit_py.Llama(
        options.model,
        precision=options.precision,
        lo=options.lo,
        n_ctx=n_ctx,
        n_batch=options.batch,
        n_threads=options.threads,
        prefetch={"on": True, "off": False}.get(options.prefetch, options.prefetch),
        **budget,
    )
    return model


def read_storage_bytes() -> int:
    """Bytes this process made the drive read so far, read-ahead of mapped files included."""
    return int(re.findall(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)[0])


def read_peak_rss_bytes() -> int:
    return 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[0])


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def next_token(model: llama_cpp.Llama) -> int:
    logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(np.argmax(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),))))


def prompt_tokens(model: llama_cpp.Llama, text: str, n_tokens: int) -> list[int]:
    tokens: list[int] = model.tokenize(text.encode())
    if not tokens:
        raise ValueError("the prompt file is empty: expected text")
    return (tokens * -(-n_tokens // len(tokens)))[:n_tokens]  # a text that is too short is repeated


def measure(options: argparse.Namespace) -> dict[str, Any]:
    text = options.prompt_file.read_text(encoding="utf-8")
    n_ctx = max(options.prompt_tokens + options.decode + 1, min(options.warm, options.batch))
    started = time.perf_counter()
    model = (load_hobbit if options.engine == "hobbit" else load_stock)(options, n_ctx)
    ready = time.perf_counter()
    prompt = prompt_tokens(model, text, options.prompt_tokens)
    for window in range(0, options.warm, n_ctx):
        model.eval(prompt_tokens(model, text, options.warm)[window : window + n_ctx])
        model.reset()
    prompt_started = time.perf_counter()
    model.eval(prompt)
    token = next_token(model)
    prompt_s = time.perf_counter() - prompt_started

    read_stats = getattr(model, "stats", None)  # hobbit only
    stats_before = read_stats() if read_stats else None
    storage_before, cpu_before = read_storage_bytes(), cpu_s()
    tokens, token_s = [token], []
    decode_started = time.perf_counter()
    for idx in range(options.decode):
        token_started = time.perf_counter()
        model.eval([token])
        token = next_token(model)
        token_s.append(time.perf_counter() - token_started)
        tokens.append(token)
        if idx + 1 >= options.min_decode and time.perf_counter() - decode_started > options.max_decode_s:
            break
    n_decoded, decode_s = len(token_s), time.perf_counter() - decode_started

    result = {
        "engine": options.engine,
        "load_s": ready - started,
        "first_token_s": ready - started + prompt_s,
        "prompt_tokens": len(prompt),
        "prompt_tok_s": len(prompt) / prompt_s,
        "decode_tok_s": n_decoded / decode_s,
        "token_s": token_s,
        "cpu_s_per_token": (cpu_s() - cpu_before) / n_decoded,
        "storage_bytes_per_token": (read_storage_bytes() - storage_before) / n_decoded,
        "peak_rss_bytes": read_peak_rss_bytes(),
        "tokens": tokens,
        "text_sha256": hashlib.sha256(model.detokenize(tokens)).hexdigest(),
    }
    if read_stats:
        stats = read_stats().since(stats_before)
        result["hit_rate"] = stats.hit_rate
        result["read_bytes_per_token"] = (stats.read_bytes_hi + stats.read_bytes_lo) / n_decoded
        result["prefetch_bytes_per_token"] = {
            name: getattr(stats, f"prefetch_{name}_bytes") / n_decoded
            for name in ("useful", "late", "wasted", "cancelled")
        }
        result["stall_s_per_token"] = stats.stall_us / 1e6 / n_decoded
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["stock", "hobbit"])
    parser.add_argument("model")
    parser.add_argument("--prompt-file", type=Path, required=True)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--decode", type=int, default=128, help="tokens to decode (128)")
    parser.add_argument("--max-decode-s", type=float, default=float("inf"), help="stop decoding after this time")
    parser.add_argument("--min-decode", type=int, default=16, help="but not before this many tokens (16)")
    parser.add_argument("--warm", type=int, default=0, help="tokens to evaluate before anything is measured")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--mmap", action="store_true", help="stock: map the file instead of reading it into memory")
    parser.add_argument("--memory", type=parse_size, help="hobbit: budget of the whole process")
    parser.add_argument("--expert-memory", type=parse_size, help="hobbit: budget of the experts alone")
    parser.add_argument("--precision", default="exact", choices=["exact", "mixed", "auto"])
    parser.add_argument("--prefetch", default="on", help="hobbit: on, off, or the name of a predictor (on)")
    parser.add_argument("--lo", help="hobbit: the low-precision copy")
    try:
        result = measure(parser.parse_args(arguments))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"bench_child: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
