"""Which copy of a selected expert a token gets: hi, lo or none.

A policy is asked for each token and layer, and, where experts are read ahead, for what the next layer will probably
select; so it must not keep state. It gets the gate weights of the selected experts, float32 [n_used], descending and
summing to 1, and what is resident of each, int8 [n_used]: 0 nothing, 1 the lo copy, 2 the hi copy. It returns codes,
[n_used] of SKIP, LO, HI and PROMOTE: lo now, and the hi copy is read as soon as the drive has time. Where the tokens
of a batch differ over an expert, the most demanding code holds: HI, then PROMOTE, then LO.

The built-ins here are the readable specification; the native core has a twin of each that decides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

SKIP, LO, HI, PROMOTE = 0, 1, 2, 3
Codes = Sequence[int] | npt.NDArray[np.integer]
Weights = npt.NDArray[np.float32]
Copies = npt.NDArray[np.int8]


@runtime_checkable
class PrecisionPolicy(Protocol):
    """What a policy of one's own must have."""

    def choose(self, layer: int, gate_weights: Weights, resident: Copies) -> Codes:
        """Returns a code for each selected expert of one token."""
        ...


@dataclass(frozen=True)
class AlwaysHigh:
    """Every expert in hi: exact mode."""

    def choose(self, layer: int, gate_weights: Weights, resident: Copies) -> Codes:
        """See PrecisionPolicy."""
        return [HI] * len(gate_weights)


@dataclass(frozen=True)
class AlwaysLow:
    """Every expert in lo, except those that are resident in hi."""

    def choose(self, layer: int, gate_weights: Weights, resident: Copies) -> Codes:
        """See PrecisionPolicy."""
        return [HI if copy == HI else LO for copy in resident]


@dataclass(frozen=True)
class HobbitThresholds:
    """HOBBIT's token-level scorer (arXiv 2411.01433, section 3.2).

    A missing expert's unimportance is the gate mass of the token's better experts: up to t1 it is read in hi, up to t2
    in lo, beyond it is skipped. The best expert is always hi, and what is resident in hi serves as it is. The paper's
    values for two experts a token are t1 = 0.6, t2 = 0.9. With lo_serves_hi (not in the paper) a resident lo copy
    serves where hi was chosen, until the hi copy is there.
    """

    t1: float = 0.6
    t2: float = 0.9
    lo_serves_hi: bool = False

    def choose(self, layer: int, gate_weights: Weights, resident: Copies) -> Codes:
        """See PrecisionPolicy."""
        codes = []
        covered = np.float32(0)
        t1, t2 = np.float32(self.t1), np.float32(self.t2)
        for rank, (weight, copy) in enumerate(zip(gate_weights, resident, strict=True)):
            if copy == HI:
                codes.append(HI)
            elif rank == 0 or t1 >= 1 or covered <= t1:
                codes.append(PROMOTE if self.lo_serves_hi and copy == LO else HI)
            else:
                codes.append(LO if t2 >= 1 or covered <= t2 else SKIP)
            covered += weight
        return codes


@dataclass(frozen=True)
class WeightThresholds:
    """By the expert's own gate weight: in hi from hi_above on, in lo below it, and below skip_below not at all.

    What an expert in lo adds to the layer's error grows with the square of its weight, and every hi copy costs the same
    to read. So this rule leaves the least error for a given number of hi reads. HobbitThresholds, which counts the
    weight of the better experts, also reads the best one of a token that has no favourite. What is resident in hi
    serves as it is, and what is resident in lo is not skipped: only a read is worth leaving out. Below wait_above a
    resident lo copy serves where hi was chosen, until the hi copy is there: no token waits for the drive then.
    hi_above = wait_above = 0 is exact mode.

    Where an error weighs more the later its layer comes, hi_above may be that of layer 0 and fall by `fall` from each
    layer to the next.
    """

    hi_above: float = 0.2
    skip_below: float = 0.0
    wait_above: float = 0.0
    fall: float = 0.0

    @classmethod
    def tilted(
        cls, hi_above: float, tilt: float, n_layers: int, *, skip_below: float = 0.0, wait_above: float = 0.0
    ) -> WeightThresholds:
        """With hi_above in the middle layer, 1 + tilt times that in the first and 1 - tilt times in the last."""
        fall = 2.0 * tilt * hi_above / (n_layers - 1) if n_layers > 1 else 0.0
        return cls(hi_above + fall * (n_layers - 1) / 2.0, skip_below, wait_above, fall)

    def choose(self, layer: int, gate_weights: Weights, resident: Copies) -> Codes:
        """See PrecisionPolicy."""
        hi_above, skip_below = np.float32(self.hi_above - self.fall * layer), np.float32(self.skip_below)
        wait_above = np.float32(self.wait_above)
        codes = []
        for weight, copy in zip(gate_weights, resident, strict=True):
            if copy == HI:
                codes.append(HI)
            elif weight >= hi_above:
                codes.append(PROMOTE if copy == LO and weight < wait_above else HI)
            else:
                codes.append(LO if copy == LO or weight >= skip_below else SKIP)
        return codes


@dataclass(frozen=True)
class MassBudget:
    """Spends a budget of gate mass, from the lightest missing expert up.

    What has no copy in memory is skipped while the mass skipped stays within skip_mass; other missing experts go lo
    while the mass in lo stays within lo_mass. The best expert is always hi.
    """

    lo_mass: float = 0.4
    skip_mass: float = 0.0

    def choose(self, layer: int, gate_weights: Weights, resident: Copies) -> Codes:
        """See PrecisionPolicy."""
        codes = [HI] * len(gate_weights)
        lo_spent = skip_spent = np.float32(0)
        for rank in range(len(gate_weights) - 1, 0, -1):
            weight = gate_weights[rank]
            if resident[rank] == HI:
                continue
            if resident[rank] == SKIP and skip_spent + weight <= np.float32(self.skip_mass):
                skip_spent += weight
                codes[rank] = SKIP
            elif lo_spent + weight <= np.float32(self.lo_mass):
                lo_spent += weight
                codes[rank] = LO
        return codes
