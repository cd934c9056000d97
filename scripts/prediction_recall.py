"""How often the predictors guess right, one to three layers ahead, on a text.

    python scripts/prediction_recall.py model.gguf text.txt --tokens 2000
    python scripts/prediction_recall.py model.gguf text.txt --predictor previous-token --json

The share of the experts that a layer selected which were among as many best guesses. Tokens are evaluated one by one,
as in decoding, unless --batch says otherwise; the text is cut into windows of --ctx tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import hobbit_py
from hobbit_py.policies import PREDICTORS, Prefetch


def measure(options: argparse.Namespace, predictor: str) -> list[float]:
    """Recall by distance."""
    llama = hobbit_py.Llama(
        options.model,
        n_ctx=options.ctx,
        n_batch=options.batch,
        precision="exact",
        expert_memory=options.expert_memory,
        prefetch=Prefetch(predictor, "fixed", 3),
    )
    try:
        tokens = llama.tokenize(options.text.read_text(encoding="utf-8").encode())[: options.tokens]
        llama.record_predictions()  # else nothing is predicted once all experts are in memory
        for first in range(0, len(tokens), options.ctx):
            llama.reset()
            llama.eval(tokens[first : first + options.ctx])
        return llama.prediction_recall()[:3]
    finally:
        llama.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--predictor", action="append", choices=PREDICTORS, help="(stacked-gates, previous-token)")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1, help="tokens at once, at most 8; gates guess for each of them")
    parser.add_argument("--expert-memory", default="1GiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        found = {p: measure(options, p) for p in options.predictor or ["stacked-gates", "previous-token"]}
    except (OSError, hobbit_py.HobbitError) as error:
        print(f"prediction_recall: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([{"predictor": p, "recall": r} for p, r in found.items()]))
    else:
        for predictor, by_distance in found.items():
            print(f"{predictor:16}", "  ".join(f"{d}: {r:.3f}" for d, r in enumerate(by_distance, 1)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
