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


class RoutingRecorder:
    """A precision policy that runs everything in hi and keeps the score of every selected expert.

    The score is the gate mass of the token's better experts, 0 for the best.
    """

    def __init__(self) -> None:
        self._scores: list[npt.NDArray[np.float32]] = []

    def choose(
        self, layer: int, gate_weights: npt.NDArray[np.float32], resident: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int64]:
        """See PrecisionPolicy."""
        self._scores.append(np.cumsum(gate_weights) - gate_weights)
        return np.full(len(gate_weights), HI)

    def scores(self) -> npt.NDArray[np.float32]:
        """All scores, [n_tokens * n_layers, n_expert_used]; empty if no layer asked."""
        return np.stack(self._scores) if self._scores else np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class MixThresholds:
    """Thresholds that would give the target mix if every expert were missing."""

    t1: float
    t2: float


def record_scores(llama: Llama, windows: Windows) -> npt.NDArray[np.float32]:
    """Scores of all selected experts over the windows; sets the policy of `llama`, which must have a lo copy."""
    recorder = RoutingRecorder()
    llama.set_policy(recorder)
    for window in windows.inputs:
        llama.reset()
        llama.eval(window)
    return recorder.scores()


def mix_thresholds(
    scores: npt.NDArray[np.float32], hi_share: float = HI_SHARE, lo_share: float = LO_SHARE
) -> MixThresholds:
    """The quantiles of the scores [n, n_expert_used], rank 0 counted: T1 bounds hi_share, T2 another lo_share."""
    t1, t2 = np.quantile(scores, [hi_share, hi_share + lo_share])
    return MixThresholds(min(1.0, float(t1)), min(1.0, float(t2)))
