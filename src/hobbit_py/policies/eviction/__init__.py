"""Which resident expert goes when room is needed: one policy a file, each with a native twin that decides alike."""

from __future__ import annotations

from .base import EvictionPolicy, SequencePolicy
from .frequency import Frequency
from .lcu import Lcu
from .least_stale import LeastStale
from .lfru import Lfru
from .lfu import Lfu
from .lru import Lru
from .moe_infinity import MoeInfinity
from .multidimensional import Multidimensional
from .next_use import NextUse
from .ranked_frequency import RankedFrequency
from .two_level_lru import TwoLevelLru

__all__ = [
    "BUILT_INS",
    "EvictionPolicy",
    "Frequency",
    "Lcu",
    "LeastStale",
    "Lfru",
    "Lfu",
    "Lru",
    "MoeInfinity",
    "Multidimensional",
    "NextUse",
    "RankedFrequency",
    "SequencePolicy",
    "TwoLevelLru",
]

BUILT_INS: dict[str, type[EvictionPolicy]] = {
    "lru": Lru,
    "frequency": Frequency,
    "ranked-frequency": RankedFrequency,
    "next-use": NextUse,
    "lfu": Lfu,
    "lfru": Lfru,
    "multidimensional": Multidimensional,
    "lcu": Lcu,
    "moe-infinity": MoeInfinity,
    "two-level-lru": TwoLevelLru,
    "least-stale": LeastStale,
}
"""By the names that the native core knows."""
