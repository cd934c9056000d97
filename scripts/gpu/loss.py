"""What mixed precision costs in accuracy below a GPU, with the CPU standing for it: decisions and copies are the same.

    python scripts/gpu/loss.py model.gguf --lo model.lo-Q4_0.gguf --text a.txt --text b.txt --shares 50,25

Token by token, against exact mode on the same tokens, as docs/accuracy.md has it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hobbit_py
from hobbit_py.evaluate import Reference, evaluate
from hobbit_py.policies import WeightThresholds

sys.path.insert(0, str(Path(__file__).parents[1]))
from accuracy_sweep import WINDOW, Model, windows_of_texts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--lo", required=True, help="its low-precision copy")
    parser.add_argument("--text", type=Path, action="append", required=True, help="to be evaluated (repeatable)")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--shares", default="50,25", help="percent of the experts in the GPU's memory (50,25)")
    parser.add_argument("--hi-above", type=float, help="gate weight from which a missing expert runs in hi (default's)")
    parser.add_argument("--lo-share", type=float, help="of the GPU's memory, for lo copies (default's)")
    options = parser.parse_args(arguments)
    model = Model.read(options.model)
    texts = [text.read_bytes() for text in options.text]
    mixed: dict[str, Any] = {} if options.hi_above is None else {"policy": WeightThresholds(options.hi_above)}
    if options.lo_share is not None:
        mixed["lo_share"] = options.lo_share

    def load(share: int, **settings: Any) -> hobbit_py.Llama:  # noqa: ANN401
        vram = model.expert_bytes * share // 100
        return hobbit_py.Llama(str(options.model), device="CPU", expert_vram=vram, n_ctx=WINDOW, **settings)

    for share in (int(text) for text in options.shares.split(",")):
        llama = load(share, precision="exact")
        windows = windows_of_texts(llama, texts, options.tokens)
        with Reference(windows.n_scored, llama.n_vocab()) as reference:
            evaluate(llama, windows, record=reference)
            llama.close()
            llama = load(share, precision="mixed", lo=options.lo, **mixed)
            found = evaluate(llama, windows, against=reference)
            llama.close()
        stats, divergence = found.stats, found.divergence
        assert divergence is not None
        in_vram = stats.n_device_hits / (stats.n_device_hits + stats.n_device_misses)
        in_hi = stats.n_used_hi / (stats.n_used_hi + stats.n_used_lo)
        print(
            f"{share}% in VRAM: perplexity {divergence.loss:+.2%} +- {divergence.loss_se:.2%}, "
            f"KL {divergence.kl_mean:.4f}, top-1 {divergence.top1_agreement:.3f}; "
            f"of the experts used {in_vram:.0%} in VRAM, {in_hi:.0%} in hi",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
