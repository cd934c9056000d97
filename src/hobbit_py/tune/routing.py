"""How a model's router spreads its weight: the distribution that thresholds are quantiles of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..policies import HI

if TYPE_CHECKING:
    from ..evaluate import Windows
    from ..llama import Llama

# The mix of the HOBBIT paper for two experts a token: two thirds in hi, 3% skipped.
HI_SHARE, LO_SHARE = 0.67, 0.30
HI_A_TOKEN = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0)
MORE_HI_A_TOKEN = (3.0, 4.0, 5.0, 6.0)  # of hi copies of their own, which cost less to read
SKIP_SHARES = (0.01, 0.03)


class RoutingRecorder:
    """A precision policy that runs everything in hi and keeps the gate weight of every selected expert."""

    def __init__(self) -> None:
        self._weights: list[npt.NDArray[np.float32]] = []

    def choose(
        self, layer: int, gate_weights: npt.NDArray[np.float32], resident: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int64]:
        """See PrecisionPolicy."""
        self._weights.append(np.array(gate_weights))
        return np.full(len(gate_weights), HI)

    def weights(self) -> npt.NDArray[np.float32]:
        """All weights, [n_tokens * n_layers, n_expert_used], descending; empty if no layer asked."""
        return np.stack(self._weights) if self._weights else np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class MixThresholds:
    """HOBBIT's thresholds that would give the target mix if every expert were missing."""

    t1: float
    t2: float


def record_weights(llama: Llama, windows: Windows) -> npt.NDArray[np.float32]:
    """Gate weights of all selected experts over the windows; sets the policy of `llama`, which must have a lo copy."""
    recorder = RoutingRecorder()
    llama.set_policy(recorder)
    for window in windows.inputs:
        llama.reset()
        llama.eval(window)
    return recorder.weights()


def mix_thresholds(
    weights: npt.NDArray[np.float32], hi_share: float = HI_SHARE, lo_share: float = LO_SHARE
) -> MixThresholds:
    """Quantiles of HOBBIT's score, the gate mass of a token's better experts: T1 bounds hi_share, T2 another lo_share.

    `weights` is [n, n_expert_used], descending; the best expert's score is 0.
    """
    scores = np.cumsum(weights, axis=1) - weights
    t1, t2 = np.quantile(scores, [hi_share, hi_share + lo_share])
    return MixThresholds(min(1.0, float(t1)), min(1.0, float(t2)))


def hi_thresholds(weights: npt.NDArray[np.float32], *, has_own_hi: bool = False) -> list[float]:
    """Gate weights from which on so many experts a token would be in hi (HI_A_TOKEN); the highest first.

    With hi copies of their own (`has_own_hi`) MORE_HI_A_TOKEN as well.
    """
    n_used = weights.shape[1]
    counts = (*HI_A_TOKEN, *(MORE_HI_A_TOKEN if has_own_hi else ()))
    shares = [n_hi / n_used for n_hi in counts if n_hi < n_used]
    return sorted({float(np.quantile(weights, 1 - share)) for share in shares}, reverse=True)


def skip_thresholds(weights: npt.NDArray[np.float32]) -> list[float]:
    """Gate weights below which 1% and 3% of the selected experts are."""
    return sorted({float(np.quantile(weights, share)) for share in SKIP_SHARES})
