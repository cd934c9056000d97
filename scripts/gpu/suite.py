"""Correctness and speed on the GPU at hand, against llama.cpp with as many expert bytes on it (its -ncmoe).

    PYTHONPATH=$PREFIX python scripts/gpu/suite.py model.gguf --prompt-file text.txt --lo model.lo-Q3_K.gguf

Every case is a process of its own. Needs hobbit_py and a llama-cpp-python built for the GPU (scripts/gpu/build).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

CASE = Path(__file__).parent / "case.py"
EXPERT_TENSOR = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down|gate_up)_exps\.weight")
Floats = npt.NDArray[np.float64]
N_PROMPT = 600  # of the comparison of logits: a whole batch and a part of one


def run_case(arguments: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """One case's result; {"error": ...} if it failed, so that the others still run."""
    command = [sys.executable, str(CASE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {timeout_s:.0f} s"}
    if done.returncode != 0:
        return {"error": (done.stderr.strip() or f"exit code {done.returncode}")[-400:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def expert_layers(model: Path) -> tuple[int, int]:
    """(bytes of all experts, layers that have some)."""
    found = [(m[1], t) for t in gguf.GGUFReader(model).tensors if (m := EXPERT_TENSOR.fullmatch(t.name))]
    return sum(int(t.n_bytes) for _, t in found), len({layer for layer, _ in found})


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def compare(found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> str:
    if np.array_equal(found, reference):
        return "identical"
    p, q = log_softmax(reference), log_softmax(found)
    kl = float((np.exp(p) * (p - q)).sum(axis=1).mean())
    same = float((found.argmax(axis=1) == reference.argmax(axis=1)).mean())
    # Teacher-forced: how likely both find what the reference finds likeliest.
    best = reference.argmax(axis=1)[:, None]
    change = float((np.take_along_axis(q, best, 1) - np.take_along_axis(p, best, 1)).mean())
    differ = float((found != reference).any(axis=1).mean())
    return (
        f"max diff {np.abs(found - reference).max():.3g} in {differ:.0%} of tokens, KL {kl:.2e}, "
        f"log likelihood {change:+.1e}, top-1 {same:.1%}"
    )


def compare_stages(found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], n_prompt: int) -> str:
    """One line: the prompt's logits, then those of what was decoded behind it."""
    if np.array_equal(found, reference):
        return "identical"
    return (
        f"prompt {compare(found[:n_prompt], reference[:n_prompt])}; "
        f"decoded {compare(found[n_prompt:], reference[n_prompt:])}"
    )


def correctness(
    options: argparse.Namespace, cases: dict[str, list[str]], model: str, together: int, stock_model: str | None = None
) -> None:
    """Compares all logits with those of the first case.

    `together`: tokens decoded in a batch; `stock_model`: what llama.cpp runs if it is not the same.
    """
    stock_model = stock_model or model
    print(
        f"\n{Path(model).name}: logits of a prompt of {N_PROMPT} tokens (in batches of 512) and 64 decoded, {together} "
        f"at a time, against stock with all of {Path(stock_model).name} on the GPU"
    )
    with tempfile.TemporaryDirectory() as folder:
        reference = None
        for name, arguments in cases.items():
            path = Path(folder) / "logits.npy"
            prompt = ["--prompt-file", str(options.prompt_file), "--prompt-tokens", str(N_PROMPT), "--decode", "64"]
            logits_of = ["--logits", str(path), "--together", str(together)]
            of_case = stock_model if arguments[0] == "stock" else model
            result = run_case([*arguments[:1], of_case, *prompt, *arguments[1:], *logits_of], options.timeout_s)
            if "error" in result:
                print(f"  {name:34} {result['error']}")
                continue
            logits = np.load(path)
            reference = logits if reference is None else reference
            on_cpu = f" ({n} matrices on the CPU)" if (n := result.get("n_host_parts")) else ""
            print(f"  {name:34} {compare_stages(logits, reference, N_PROMPT)}{on_cpu}", flush=True)


def speed_row(name: str, result: dict[str, Any], link_gb_s: float) -> str:
    if "error" in result:
        return f"  {name:34} {result['error']}"
    prompts = result["prompt_tok_s"][1:]  # the first warms up
    row = f"  {name:34} {result['decode_tok_s']:8.1f} {float(np.median(prompts)):9.0f} {result['ready_s']:8.1f}"
    if (stats := result.get("stats")) is None:
        return row
    n_asked = max(1, stats["n_device_hits"] + stats["n_device_misses"])
    n_tokens = max(1, stats["n_tokens"])
    busy_s = stats["copy_us"] / 1e6
    prompt_gb_s = result["prompt_stats"]["copied_bytes"] / result["prompt_s"] / 1e9 if "prompt_stats" in result else 0.0
    rate = stats["copied_bytes"] / busy_s / 1e9 if busy_s else 0.0
    return row + (
        f" {stats['n_device_hits'] / n_asked:7.1%} {stats['copied_bytes'] / n_tokens / 1e6:9.1f} {rate:6.1f}"
        f" {rate / link_gb_s if link_gb_s else 0:6.0%} {stats['n_host_parts'] / n_tokens:7.1f}"
        f" {stats['host_compute_us'] / n_tokens / 1e3:7.2f} {stats['copy_wait_us'] / n_tokens / 1e3:7.2f}"
        f" {stats['read_bytes_hi'] / n_tokens / 1e6 + stats['read_bytes_lo'] / n_tokens / 1e6:8.1f}"
        f" {prompt_gb_s:6.1f}"
    )


def speed(options: argparse.Namespace, cases: dict[str, list[str]]) -> None:
    heads = (
        "decode tok/s, prompt tok/s, load s; per token: hits on the GPU, MB copied, GB/s while copying, of the link,"
    )
    print(
        f"\n{Path(options.model).name}: {heads}\nmatrices on the CPU, ms on it, ms waited for copies, MB read; "
        f"GB/s copied over all of the prompts' time"
    )
    for name, arguments in cases.items():
        prompt = ["--prompt-file", str(options.prompt_file), "--decode", str(options.decode)]
        result = run_case([*arguments[:1], options.model, *prompt, *arguments[1:]], options.timeout_s)
        print(speed_row(name, result, options.link_gb_s), flush=True)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": name, **result}) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-file", type=Path, required=True)
    parser.add_argument("--lo", action="append", default=[], help="low-precision copy: adds mixed cases (repeatable)")
    parser.add_argument("--whole-lo", help="model with the first lo copies as its experts (scripts/gpu/whole_lo.py)")
    parser.add_argument("--small", help="model for the comparison of logits (default: the same)")
    parser.add_argument("--shares", default="50,25", help="percent of the experts on the GPU (50,25)")
    parser.add_argument("--decode", type=int, default=160)
    parser.add_argument("--threads", type=int, help="(stock: all cores; hobbit: its own default)")
    parser.add_argument("--link-gb-s", type=float, default=0.0, help="measured host-to-device rate of pinned memory")
    parser.add_argument("--timeout-s", type=float, default=120)
    parser.add_argument("--only", default="", help="run cases whose name has this pattern")
    parser.add_argument("--skip-correctness", action="store_true")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--json", type=Path, help="append each speed case's full result to this file")
    options = parser.parse_args(arguments)
    shares = [int(share) / 100 for share in options.shares.split(",")]
    threads = [] if options.threads is None else ["--threads", str(options.threads)]

    def chosen(cases: dict[str, list[str]]) -> dict[str, list[str]]:
        return {n: a for n, a in cases.items() if re.search(options.only, n) or n == "stock, all on the GPU"}

    if not options.skip_correctness:
        model = options.small or options.model
        n_bytes, n_layers = expert_layers(Path(model))
        vram = str(int(n_bytes * shares[0]))
        half = str(int(n_bytes * 0.5))
        # A little more than a layer's experts, since slots are padded.
        layer = ["hobbit", "--expert-vram", str(int(1.01 * n_bytes / n_layers)), "--host-compute", "off"]
        unified = {
            "hobbit, unified": ["hobbit", "--unified", "--host-compute", "off"],
            "hobbit, unified, half in memory": [
                "hobbit",
                "--unified",
                "--expert-memory",
                half,
                "--host-compute",
                "off",
            ],
        }
        stock = {"stock, all on the GPU": ["stock"]}
        copied = {"hobbit, a share, all copied": ["hobbit", "--expert-vram", vram, "--host-compute", "off"]}
        cases = {
            **stock,
            "stock, experts on the CPU": ["stock", "--cpu-moe", str(n_layers)],
            "hobbit, all on the GPU": ["hobbit", "--vram", "auto"],
            **unified,
            **copied,
            "hobbit, one layer, all copied": layer,
            "hobbit, a share": ["hobbit", "--expert-vram", vram],
            "hobbit, no slots, CPU on": ["hobbit", "--expert-vram", "0", "--host-compute", "on"],
        }
        correctness(options, chosen(cases), model, together=1)
        cases = {**stock, "hobbit, all on the GPU": ["hobbit", "--vram", "auto"], **unified, **copied}
        correctness(options, chosen(cases), model, together=4)
        if options.whole_lo is not None:
            alone = ["hobbit", "--precision", "mixed", "--lo", options.lo[0], "--lo-share", "1", "--expert-vram"]
            some = str(int(expert_layers(Path(options.lo[0]))[0] * 0.5))
            for together in (1, 4):
                cases = {
                    **stock,
                    "hobbit, all lo copies": [*alone, str(int(n_bytes * 0.9))],
                    "hobbit, half of them, all copied": [*alone, some, "--host-compute", "off"],
                    "hobbit, half of them": [*alone, some],
                }
                correctness(options, chosen(cases), model, together, options.whole_lo)
    if options.skip_speed:
        return 0
    n_bytes, n_layers = expert_layers(Path(options.model))
    cases = {
        "stock, all on the GPU": ["stock", *threads],
        "hobbit, all on the GPU": ["hobbit", "--vram", "auto", *threads],
        "stock, all experts on the CPU": ["stock", "--cpu-moe", str(n_layers), *threads],
    }
    for share in shares:
        vram = ["--expert-vram", str(int(n_bytes * share))]
        percent = f"{share:.0%}"
        n_cpu = n_layers - int(n_layers * share)
        cases[f"stock, {percent} of the experts"] = ["stock", "--cpu-moe", str(n_cpu), *threads]
        cases[f"hobbit exact, {percent}"] = ["hobbit", *vram, *threads]
        cases[f"hobbit exact, {percent}, all copied"] = ["hobbit", *vram, "--host-compute", "off", *threads]
        for lo in options.lo:
            name = f"hobbit mixed {Path(lo).stem.partition('.lo-')[2] or Path(lo).stem}, {percent}"
            cases[name] = ["hobbit", *vram, "--precision", "mixed", "--lo", lo, *threads]
    # The drive sets its pace: a short prompt, few tokens.
    three = ["--expert-vram", str(int(n_bytes * 0.1)), "--expert-memory", str(int(n_bytes * 0.3))]
    three += ["--prompt-tokens", "64", "--prompts", "1", "--decode", "40", "--warm", "8"]
    cases["hobbit exact, 10%, 30% in RAM"] = ["hobbit", *three, *threads]
    speed(options, chosen(cases))
    return 0


if __name__ == "__main__":
    sys.exit(main())
