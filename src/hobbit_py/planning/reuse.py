"""How many of the bytes that a token uses must be read, by the share of the experts that is in memory."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

# (share of the experts in memory, bytes read over bytes used), decoding in exact mode.
# Little: mini-qwen3moe (64 experts, 8 used), whose routing is nearly uniform; 48 tokens after a prompt of 64, reading
# ahead (scripts/check_plan.py).
# Much: what is reported of a large model (llama.cpp #27861: 512 experts, LRU caches of 64 and 128 hit 67% and 81%).
_LITTLE_REUSE = ((0.1, 0.82), (0.25, 0.56), (0.5, 0.27), (0.75, 0.087))
_MUCH_REUSE = ((0.0625, 0.48), (0.125, 0.33), (0.25, 0.19), (0.5, 0.07), (0.75, 0.02))


@dataclass(frozen=True)
class ReuseCurve:
    """Points between (0, 1) and (1, 0), which every curve has; linear between them."""

    source: str
    points: tuple[tuple[float, float], ...]

    def read_share(self, resident_share: float) -> float:
        """Bytes read over bytes used with this share of the experts in memory, both 0 to 1."""
        points: Sequence[tuple[float, float]] = sorted({(0.0, 1.0), *self.points, (1.0, 0.0)})
        if resident_share >= 1:
            return 0.0
        above = bisect.bisect_right(points, (resident_share, 2.0))
        (x0, y0), (x1, y1) = points[above - 1], points[above]
        return y0 + (y1 - y0) * (resident_share - x0) / (x1 - x0)


LITTLE_REUSE = ReuseCurve("typical, little reuse", _LITTLE_REUSE)
MUCH_REUSE = ReuseCurve("typical, much reuse", _MUCH_REUSE)
