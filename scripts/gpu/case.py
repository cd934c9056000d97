"""One measured run on a GPU in a process of its own: load, prompt, greedy decode; one JSON object on stdout.

    python scripts/gpu/case.py stock model.gguf --prompt-file text.txt --cpu-moe 4
    python scripts/gpu/case.py hobbit model.gguf --prompt-file text.txt --vram 8GiB

Both engines are driven by the same loop: `eval` and the argmax of the last logits. Decoding is fed the text's own next
token: what a small model says by itself repeats soon, and then so do its experts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as c_api

_GPU = 1  # GGML_BACKEND_DEVICE_TYPE_GPU


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def load_stock(options: argparse.Namespace, n_ctx: int) -> llama_cpp.Llama:
    """llama.cpp with all layers on the GPU and the experts of `--cpu-moe` layers on the CPU, as its -ncmoe does it.

    Without repacked buffers, as hobbit_py runs it: see docs/design.md.
    """
    defaults = llama_cpp.llama_model_default_params
    base = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    base.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    cpu = base.ggml_backend_cpu_buffer_type()
    patterns = [rf"blk\.{idx}\.ffn_(up|down|gate|gate_up)_exps".encode() for idx in range(options.cpu_moe)]
    overrides = (_Override * (len(patterns) + 1))(*[_Override(pattern, cpu) for pattern in patterns])

    def params() -> Any:  # noqa: ANN401
        result = defaults()
        result.use_extra_bufts = False
        if patterns:
            result.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p).value
        return result

    c_api.llama_model_default_params = params
    return llama_cpp.Llama(
        options.model,
        n_ctx=n_ctx,
        n_batch=512,
        n_gpu_layers=-1,
        n_threads=options.threads or len(os.sched_getaffinity(0)),
        n_threads_batch=options.threads or len(os.sched_getaffinity(0)),
        use_mmap=False,
        logits_all=options.logits is not None,
        verbose=options.verbose,
    )


def load_hobbit(options: argparse.Namespace, n_ctx: int) -> llama_cpp.Llama:
    import hobbit_py  # only here: stock runs need no hobbit

    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("vram", "expert_vram", "memory", "expert_memory", "lo", "device", "lo_share")
        if getattr(options, name) is not None
    }
    if options.hi_above is not None:
        from hobbit_py.policies import WeightThresholds

        given["policy"] = WeightThresholds(options.hi_above)
    model: llama_cpp.Llama = hobbit_py.Llama(
        options.model,
        precision=options.precision,
        unified=options.unified or None,
        host_compute={"auto": None, "on": True, "off": False}[options.host_compute],
        n_ctx=n_ctx,
        n_batch=512,
        n_threads=options.threads,
        logits_all=options.logits is not None,
        verbose=options.verbose,
        **given,
    )
    return model


def used_vram_bytes() -> int:
    """What the first GPU holds, of every process: buffers, the CUDA context and llama.cpp's pool."""
    registry = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml.so"))
    registry.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    device = registry.ggml_backend_dev_by_type(_GPU)
    if device is None:
        return 0
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    base.ggml_backend_dev_memory(ctypes.c_void_p(device), ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


def settle(model: llama_cpp.Llama) -> None:
    """Waits until nothing is read in the background: else the drive would be measured, too."""
    before = -1
    while (read := model.stats().read_bytes) != before:
        before = read
        time.sleep(0.5)


def next_token(model: llama_cpp.Llama) -> int:
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), shape=(model.n_vocab(),))
    if not np.isfinite(logits).all():
        raise RuntimeError("the logits are not finite")  # and then all tokens choose the same experts, which is fast
    return int(np.argmax(logits))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    text = options.prompt_file.read_text(encoding="utf-8")
    n_prompts = 1 + options.prompts
    started = time.perf_counter()
    n_ctx = options.prompt_tokens + options.decode + 8
    model = (load_hobbit if options.engine == "hobbit" else load_stock)(options, n_ctx)
    ready_s = time.perf_counter() - started
    tokens = model.tokenize(text.encode())
    n_wanted = options.prompt_tokens * n_prompts + options.decode
    tokens = (tokens * -(-n_wanted // len(tokens)))[:n_wanted]
    starts = range(0, options.prompt_tokens * n_prompts, options.prompt_tokens)
    prompts = [tokens[start : start + options.prompt_tokens] for start in starts]
    decoded = tokens[-options.decode :]

    read_stats = getattr(model, "stats", None)  # hobbit only
    if options.logits is not None:
        model.eval(prompts[0])
        before = read_stats() if read_stats else None
        for start in range(0, len(decoded), options.together):
            model.eval(decoded[start : start + options.together])
        np.save(options.logits, np.array(model.scores[: model.n_tokens], dtype=np.float32))
        result: dict[str, Any] = {"engine": options.engine, "ready_s": ready_s, "n_tokens": int(model.n_tokens)}
        if read_stats:
            result["n_host_parts"] = read_stats().since(before).n_host_parts  # of what was decoded
        return result

    prompt_s = []
    prompt_stats = None
    for prompt in prompts:  # the first warms up, the rest are measured
        if read_stats and len(prompt_s) == 1:
            settle(model)
            prompt_stats = read_stats()
        model.reset()
        prompt_started = time.perf_counter()
        model.eval(prompt)
        next_token(model)
        prompt_s.append(time.perf_counter() - prompt_started)
    if prompt_stats is not None:
        prompt_stats = read_stats().since(prompt_stats)
    for token in decoded[: options.warm]:
        model.eval([token])
    before = read_stats() if read_stats else None
    token_s = []
    for token in decoded[options.warm :]:
        token_started = time.perf_counter()
        model.eval([token])
        next_token(model)
        token_s.append(time.perf_counter() - token_started)
    result = {
        "engine": options.engine,
        "ready_s": ready_s,
        "prompt_tok_s": [options.prompt_tokens / s for s in prompt_s],
        "decode_tok_s": len(token_s) / sum(token_s),
        "median_token_ms": 1e3 * float(np.median(token_s)),
        "used_vram_bytes": used_vram_bytes(),
    }
    if read_stats:
        stats = read_stats().since(before)
        result["stats"] = {name: getattr(stats, name) for name in stats.__dataclass_fields__}
        result["decode_s"] = sum(token_s)
        if prompt_stats is not None:
            result["prompt_stats"] = {name: getattr(prompt_stats, name) for name in stats.__dataclass_fields__}
            result["prompt_s"] = sum(prompt_s[1:])
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["stock", "hobbit"])
    parser.add_argument("model")
    parser.add_argument("--prompt-file", type=Path, required=True)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=4, help="prompts after the first, which is not measured (4)")
    parser.add_argument("--decode", type=int, default=160)
    parser.add_argument("--together", type=int, default=1, help="with --logits: tokens decoded in a batch (1)")
    parser.add_argument("--warm", type=int, default=32, help="of these, decoded before measuring (32)")
    parser.add_argument("--threads", type=int, help="(stock: all cores; hobbit: its own default)")
    parser.add_argument("--cpu-moe", type=int, default=0, help="stock: layers whose experts stay on the CPU")
    parser.add_argument("--vram", help="hobbit: budget of the GPU's memory")
    parser.add_argument("--expert-vram", help="hobbit: budget of the experts in the GPU's memory alone")
    parser.add_argument("--memory", help="hobbit: budget of the process")
    parser.add_argument("--expert-memory", help="hobbit: budget of the experts in main memory alone")
    parser.add_argument("--device", help="hobbit: ggml's name of the device")
    parser.add_argument("--unified", action="store_true", help="hobbit: one tier in main memory")
    parser.add_argument(
        "--host-compute", choices=["auto", "on", "off"], default="auto", help="hobbit: as of 'hobbit chat'"
    )
    parser.add_argument("--precision", default="exact", choices=["exact", "mixed", "auto"])
    parser.add_argument("--lo", help="hobbit: the low-precision copy")
    parser.add_argument("--lo-share", type=float)
    parser.add_argument("--hi-above", type=float, help="hobbit: gate weight from which a missing expert runs in hi")
    parser.add_argument("--logits", type=Path, help="save the logits of a prompt and teacher-forced decoding instead")
    parser.add_argument("--verbose", action="store_true")
    try:
        result = measure(parser.parse_args(arguments))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"case: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
