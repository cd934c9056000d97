"""How a GPU's memory is divided between slots and staging; `check` and the rest are tested with real models."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from hobbit_py._host import ContextNeeds, _core
from hobbit_py._memory_plan import Granted, MemoryPlan
from hobbit_py.vram import DeviceChoice, slot_bytes

MIB = 1 << 20
RING = 256 * MIB
STAGING = 100 * MIB  # a layer's experts
ALL = 3200 * MIB


@dataclass
class Engine:
    """What is asked of `_core.Engine`."""

    has_lo: bool = False
    all_device_bytes: int = ALL
    token_slot_bytes: int = MIB
    all_slots_bytes: int = ALL
    all_lo_slots_bytes: int = 0

    def device_bytes(self, options: _core.TierOptions) -> int:
        return options.expert_bytes + RING + (STAGING if options.has_staging else 0)


def divided(
    engine: Engine, *, vram_bytes: int | None = None, expert_vram_bytes: int | None = None
) -> _core.TierOptions:
    granted = Granted(None, MIB, vram_bytes, expert_vram_bytes)
    plan = MemoryPlan(cast("Any", engine), DeviceChoice("GPU", has_tier=True), granted)
    in_use = ContextNeeds(dense_bytes=0, context_bytes=0, compute_bytes=0, device_bytes=0, n_vocab=0)
    plan.grant(in_use, 0, lambda: 0)
    return plan.tier_options


@pytest.mark.parametrize(
    ("left_mib", "has_staging", "slots_mib"),
    [(1000, True, 900), (200, True, 100), (199, False, 199), (0, False, 0), (3300, False, 3200), (3199, True, 3099)],
)
def test_staging_is_part_of_the_budget(left_mib: int, has_staging: bool, slots_mib: int) -> None:
    margin_bytes = RING - slot_bytes(RING, 0)
    options = divided(Engine(), vram_bytes=left_mib * MIB + RING + margin_bytes)
    assert options.has_staging is has_staging
    assert options.expert_bytes == slots_mib * MIB


@pytest.mark.parametrize(
    ("slots_mib", "has_staging"), [(1000, True), (100, True), (99, False), (0, False), (3200, False)]
)
def test_it_comes_on_top_of_slots(slots_mib: int, has_staging: bool) -> None:
    options = divided(Engine(), expert_vram_bytes=slots_mib * MIB)
    assert options.has_staging is has_staging
    assert options.expert_bytes == slots_mib * MIB


def test_mixed_precision_has_none() -> None:
    options = divided(Engine(has_lo=True), vram_bytes=1000 * MIB)
    assert not options.has_staging
