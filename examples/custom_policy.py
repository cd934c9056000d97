"""A precision policy of one's own: which copy of a missing expert a token gets.

This one reads the best expert of a token in full, and lets the others run in their low-precision copies. It makes such
copies of the bundled model in a temporary folder first; for a model of your own that is `hobbit pack`.

python examples/custom_policy.py
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hobbit_py import Llama
from hobbit_py.bundled import bundled_model
from hobbit_py.pack import pack
from hobbit_py.policies import HI, LO, AlwaysHigh, PrecisionPolicy


class BestInHi:
    """The best experts of a token in hi; of the others, those that are resident in hi as well."""

    def __init__(self, n_best: int) -> None:
        self._n_best = n_best

    def choose(
        self, layer: int, gate_weights: npt.NDArray[np.float32], resident: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int64]:
        """One choice for each expert of the token; `gate_weights` are the router's, `resident` HI, LO or neither."""
        rank = np.argsort(np.argsort(-gate_weights))
        return np.where((rank < self._n_best) | (resident == HI), HI, LO)


def read_mb(model: Path, policy: PrecisionPolicy) -> float:
    """MB of experts read for a completion with a third of the experts in memory."""
    llama = Llama(model, expert_memory="8MiB", precision="mixed", policy=policy, n_ctx=None)
    llama.create_completion("The king of the sea", max_tokens=32, temperature=0)
    n_bytes = llama.stats().read_bytes
    llama.close()
    return n_bytes / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(shutil.copy(bundled_model(), folder))
        pack(model, "Q3_K")
        print(f"every expert in hi:  {read_mb(model, AlwaysHigh()):.1f} MB read")
        print(f"the best one in hi:  {read_mb(model, BestInHi(1)):.1f} MB read")


if __name__ == "__main__":
    main()
