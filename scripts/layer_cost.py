"""What one layer in lo costs: the KL divergence from exact mode with all experts of that layer in lo, all others in hi.

    python scripts/layer_cost.py m.gguf --lo m.lo-Q3_K.gguf --text a.txt --text b.txt --tokens 2048

Windows are evaluated in batches, with memory for all copies: what is missing does not matter here. The last line is for
`replay_thresholds.py --layer-cost`: what a unit of squared router weight costs, relative to the mean.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accuracy_sweep import WINDOW, Model, windows_of_texts

from hobbit_py import HobbitError, Llama
from hobbit_py.evaluate import Reference, evaluate
from hobbit_py.policies import HI, LO, PrecisionPolicy


class OneLayerLow:
    """Adds up the squared router weight of the layer that it runs in lo."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self.squares = 0.0

    def choose(
        self, layer: int, gate_weights: npt.NDArray[np.float32], resident: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int64]:
        if layer == self._layer:
            self.squares += float(gate_weights @ gate_weights)
        return np.full(len(gate_weights), LO if layer == self._layer else HI)


def load(model: Model, lo: Path | None, policy: PrecisionPolicy | None, n_threads: int) -> Llama:
    mixed = {} if lo is None else {"lo": lo, "lo_share": 0.5, "policy": policy}
    return Llama(
        model.path,
        expert_memory=4 * model.expert_bytes,
        precision="exact" if lo is None else "mixed",
        n_ctx=WINDOW,
        logits_all=True,  # of a window that is one batch
        n_threads=n_threads,
        prefetch=False,
        **mixed,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="GGUF with the hi experts")
    parser.add_argument("--lo", type=Path, required=True, help="a lo copy of it")
    parser.add_argument("--text", type=Path, action="append", required=True, help="text to predict; several times")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a run, over all texts")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    try:
        model = Model.read(args.model)
        llama = load(model, None, None, args.threads)
        windows = windows_of_texts(llama, [path.read_bytes() for path in args.text], args.tokens)
        costs = []
        with Reference(windows.n_scored, llama.n_vocab()) as reference:
            evaluate(llama, windows, record=reference, chunked=True)
            llama.close()
            for layer in range(model.n_layers):
                policy = OneLayerLow(layer)
                llama = load(model, args.lo, policy, args.threads)
                divergence = evaluate(llama, windows, against=reference, chunked=True).divergence
                llama.close()
                assert divergence is not None
                costs.append(divergence.kl_mean / policy.squares if policy.squares else 0.0)
                print(f"layer {layer}: KL {divergence.kl_mean:.5f}", flush=True)
    except (HobbitError, OSError) as error:
        print(f"layer_cost: {error}", file=sys.stderr)
        return 1
    print(",".join(f"{cost / np.mean(costs):.2f}" for cost in costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
