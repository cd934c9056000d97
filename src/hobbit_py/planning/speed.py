"""From bytes to seconds per token."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Attention, norms, the router and threads meeting at every node, with a short context: a layer, whatever its size.
# Measured on two cores with the bundled model, whose weights take a quarter of its time.
LAYER_OVERHEAD_S = 0.35e-3


@dataclass(frozen=True)
class MachineSpeed:
    """What the machine does, measured or given."""

    drive_bytes_s: float
    matmul_bytes_s: float
    """Weights that are in memory, multiplied with one token."""
    n_threads: int

    def compute_s(self, weight_bytes: float, n_layers: int) -> float:
        """Seconds of a token that uses so many bytes of weights, all in memory."""
        return weight_bytes / self.matmul_bytes_s + n_layers * LAYER_OVERHEAD_S

    def io_s(self, read_bytes: float) -> float:
        """Seconds that the drive needs for a token's misses."""
        return read_bytes / self.drive_bytes_s


def token_s(compute_s: float, io_s: float) -> float:
    """Seconds of a token: the larger of the two and some of the other, since overlap is not perfect.

    The root of the sum of squares lies between the maximum and the sum, farthest from the maximum where both are equal.
    In the boxes of docs/performance.md it is within 6% of the measured time, given the bytes and the bandwidth there.
    """
    return math.hypot(compute_s, io_s)
