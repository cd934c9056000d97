"""How a GPU's memory is divided between a layer's experts and copies of one use."""

from types import SimpleNamespace
from typing import Any

import pytest

from hobbit_py._host import ContextNeeds, _core
from hobbit_py._memory_plan import Granted, MemoryPlan
from hobbit_py.errors import MemoryBudgetError
from hobbit_py.vram import DeviceChoice, slot_bytes

MIB = 1 << 20
ALL = 4096 * MIB
LAYER = 300 * MIB
LEAST_RING = 16 * MIB
DEFAULT_RING = _core.TierOptions().ring_bytes
IN_USE = ContextNeeds(dense_bytes=0, context_bytes=0, compute_bytes=0, device_bytes=0, n_vocab=1000)


def plan_for(
    vram_bytes: int | None, *, layer_bytes: int = LAYER, may_round_otherwise: bool = False, free_bytes: int = 0
) -> MemoryPlan:
    engine: Any = SimpleNamespace(
        all_device_bytes=ALL,
        all_slots_bytes=ALL,
        all_lo_slots_bytes=0,
        least_device_bytes=layer_bytes,
        layer_area_bytes=0,
        token_slot_bytes=MIB,
        device_bytes=lambda options: max(LEAST_RING, options.ring_bytes),
        io_bytes=lambda options: options.stream_bytes,
    )
    granted = Granted(memory_bytes=None, expert_memory_bytes=ALL, vram_bytes=vram_bytes, expert_vram_bytes=None)
    plan = MemoryPlan(engine, DeviceChoice("CUDA0", has_tier=True), granted, may_round_otherwise=may_round_otherwise)
    plan.check(lambda: IN_USE, 1)
    plan.grant(IN_USE, 1, lambda: free_bytes)
    return plan


def budget_that_leaves(n_bytes: int) -> int:
    """A VRAM budget of which so much is left for slots and copies of one use."""
    margin_bytes = 8 * ALL - slot_bytes(8 * ALL, 0)
    return n_bytes + margin_bytes


def test_there_is_room_for_both() -> None:
    plan = plan_for(budget_that_leaves(LAYER + DEFAULT_RING))
    assert (plan.tier_options.expert_bytes, plan.tier_options.ring_bytes) == (LAYER, DEFAULT_RING)
    assert plan.missing_vram_bytes == 0


@pytest.mark.parametrize("n_missing", [1, 50 * MIB, DEFAULT_RING - LEAST_RING])
def test_copies_of_one_use_give_way(n_missing: int) -> None:
    plan = plan_for(budget_that_leaves(LAYER + DEFAULT_RING - n_missing))
    assert plan.tier_options.expert_bytes == LAYER
    assert plan.tier_options.ring_bytes == DEFAULT_RING - n_missing
    assert plan.missing_vram_bytes == 0


def test_exact_mode_needs_room_for_a_layer() -> None:
    with pytest.raises(MemoryBudgetError, match=r"one layer's experts.*--host-compute on") as raised:
        plan_for(budget_that_leaves(LAYER + LEAST_RING - 1))
    plan = plan_for(raised.value.floor_bytes)
    assert plan.missing_vram_bytes == 0


def test_so_it_does_of_what_is_free() -> None:
    with pytest.raises(MemoryBudgetError, match=r"free memory.*--host-compute on"):
        plan_for(None, free_bytes=LAYER)
    assert plan_for(None, free_bytes=4 * LAYER).missing_vram_bytes == 0


def test_where_it_may_round_otherwise_copies_of_one_use_stay() -> None:
    plan = plan_for(budget_that_leaves(LAYER), may_round_otherwise=True)
    assert plan.tier_options.ring_bytes == DEFAULT_RING
    assert plan.tier_options.expert_bytes == LAYER - DEFAULT_RING
    assert plan.missing_vram_bytes == DEFAULT_RING


def test_with_lo_copies_no_layer_needs_room() -> None:
    plan = plan_for(budget_that_leaves(DEFAULT_RING), layer_bytes=0)
    assert (plan.tier_options.expert_bytes, plan.tier_options.ring_bytes) == (0, DEFAULT_RING)
    assert plan.missing_vram_bytes == 0
