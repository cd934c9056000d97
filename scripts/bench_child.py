"""One measured run in a process of its own: load, prompt, decode; one JSON object on stdout.

    python scripts/bench_child.py stock model.gguf --prompt-file text.txt --prompt-tokens 64 --decode 128

Both engines are driven by the same loop: `eval` and the argmax of the last logits, so sampling costs are equal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sizes import parse_size

from hobbit_py.bench.decode import RunShape, measure
from hobbit_py.cores import n_usable_cores

if TYPE_CHECKING:
    import llama_cpp


def load_stock(options: argparse.Namespace, n_ctx: int) -> llama_cpp.Llama:
    """Stock llama-cpp-python with plain weight buffers.

    Repacked ("extra") buffers are switched off: they change the rounding, so tokens could not be compared, and GCC 12
    builds crash in them on AMX machines. `Llama` has no keyword for it, hence the wrapped default parameters.
    """
    import llama_cpp  # here: hobbit_py sets its environment before it imports it

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
        n_threads=options.threads or n_usable_cores(),
        n_threads_batch=options.threads or n_usable_cores(),
        use_mmap=options.mmap,
        verbose=False,
    )


def load_hobbit(options: argparse.Namespace, n_ctx: int) -> llama_cpp.Llama:
    import hobbit_py
    from hobbit_py.policies import Reroute, Substitute, WeightThresholds

    budget: dict[str, Any] = {}
    if options.memory is not None:
        budget["memory"] = options.memory
    if options.expert_memory is not None:
        budget["expert_memory"] = options.expert_memory
    if options.hi_above is not None:
        budget["policy"] = WeightThresholds(options.hi_above, options.skip_below, options.wait_above, options.fall)
    if options.reroute is not None:
        budget["router_filter"] = Substitute(options.reroute)
    elif options.reroute_below is not None:
        budget["router_filter"] = Reroute(options.reroute_below, fall=options.reroute_fall)
    model: llama_cpp.Llama = hobbit_py.Llama(
        options.model,
        precision=options.precision,
        lo=options.lo,
        hi=options.hi,
        lo_share=options.lo_share,
        n_ctx=n_ctx,
        n_batch=options.batch,
        n_threads=options.threads,
        prefetch={"on": True, "off": False}.get(options.prefetch, options.prefetch),
        **budget,
    )
    return model


def measure_engine(options: argparse.Namespace) -> dict[str, Any]:
    shape = RunShape(
        n_prompt=options.prompt_tokens,
        n_decode=options.decode,
        min_decode=options.min_decode,
        max_decode_s=options.max_decode_s,
        n_warm=options.warm,
        n_batch=options.batch,
    )
    load = load_hobbit if options.engine == "hobbit" else load_stock
    text = options.prompt_file.read_text(encoding="utf-8")
    measured = asdict(measure(lambda n_ctx: load(options, n_ctx), text, shape))
    return {"engine": options.engine} | {name: value for name, value in measured.items() if value is not None}


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
    parser.add_argument("--threads", type=int, help="(stock: all cores; hobbit: its own default)")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--mmap", action="store_true", help="stock: map the file instead of reading it into memory")
    parser.add_argument("--memory", type=parse_size, help="hobbit: budget of the whole process")
    parser.add_argument("--expert-memory", type=parse_size, help="hobbit: budget of the experts alone")
    parser.add_argument("--precision", default="exact", choices=["exact", "mixed", "auto"])
    parser.add_argument("--prefetch", default="on", help="hobbit: on, off, or the name of a predictor (on)")
    parser.add_argument("--lo", help="hobbit: the low-precision copy")
    parser.add_argument("--hi", help="hobbit: hi copies (those of the model)")
    parser.add_argument("--lo-share", type=float, help="hobbit: of the experts' memory, for lo copies (as tuned)")
    parser.add_argument("--hi-above", type=float, help="hobbit: of policies.WeightThresholds (as tuned)")
    parser.add_argument("--wait-above", type=float, default=0.0, help="hobbit: likewise, with --hi-above (0)")
    parser.add_argument("--fall", type=float, default=0.0, help="hobbit: likewise, with --hi-above (0)")
    parser.add_argument("--skip-below", type=float, default=0.0, help="hobbit: likewise, with --hi-above (0)")
    rerouting = parser.add_mutually_exclusive_group()
    rerouting.add_argument("--reroute", type=float, help="hobbit: margin of policies.Substitute (none)")
    rerouting.add_argument("--reroute-below", type=float, help="hobbit: tolerance of policies.Reroute (none)")
    parser.add_argument("--reroute-fall", type=float, default=0.0, help="hobbit: how much less it is per layer (0)")
    try:
        result = measure_engine(parser.parse_args(arguments))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"bench_child: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
