"""Which device computes, and how its own memory is divided.

A GPU's memory holds the dense weights, the KV cache, compute buffers, a ring for experts that are copied for one use,
and slots for the experts that are used most, which get what the others leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import MemoryBudgetError, UsageError
from .sizes import format_bytes, parse_bytes

_MIB = 1 << 20

# For what a device takes while it computes and cannot be asked about before: row buffers, pools of its kernels.
_MARGIN_BYTES = 96 * _MIB

# `auto` leaves this much of what is free, for the screen and for what comes later.
_AUTO_HEADROOM_SHARE = 0.05
_AUTO_HEADROOM_BYTES = 256 * _MIB


class DeviceInfo(Protocol):
    """What is asked of `_core.DeviceInfo`."""

    @property
    def name(self) -> str:
        """ggml's name, "CUDA0"."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU of either kind."""

    @property
    def is_unified(self) -> bool:
        """Whether its memory is the host's."""


@dataclass(frozen=True)
class DeviceChoice:
    """The device that computes; with a tier, it holds experts in memory of its own."""

    name: str = "CPU"
    has_tier: bool = False
    is_unified: bool = False
    """Whether it is a GPU that computes with the host's memory, or stands for one."""


def choose_device(
    devices: Sequence[DeviceInfo],
    *,
    device: str | None,
    vram: int | str | None,
    expert_vram: int | str | None,
    unified: bool | None,
) -> DeviceChoice:
    """The device for what the user asked for; the CPU if nothing about a GPU was said.

    Raises UsageError.
    """
    if vram is not None and expert_vram is not None:
        raise UsageError(
            "vram and expert_vram exclude each other; give vram for all of the GPU's memory or expert_vram for the "
            "experts in it alone."
        )
    has_budget = vram is not None or expert_vram is not None
    if device is None and not has_budget and not unified:
        return DeviceChoice()
    names = ", ".join(info.name for info in devices)
    if device is None:
        gpus = [info for info in devices if info.is_gpu]
        if not gpus:
            raise UsageError(
                f"vram and unified are about a GPU, and this build of llama-cpp-python has none (only: {names}); leave "
                "them out, or build it for the GPU, for NVIDIA's with CMAKE_ARGS=-DGGML_CUDA=on pip install "
                "--force-reinstall --no-cache-dir llama-cpp-python==0.3.36."
            )
        chosen = gpus[0]
    else:
        found = [info for info in devices if info.name == device]
        if not found:
            raise UsageError(f"there is no device {device!r} in this build of llama-cpp-python; it has: {names}.")
        chosen = found[0]
    is_unified = chosen.is_unified if unified is None else unified
    if is_unified and has_budget:
        raise UsageError(
            f"{chosen.name} shares the main memory here, so there is no separate budget for it: leave vram out, memory "
            "bounds both."
        )
    if vram is not None and not chosen.is_gpu:
        raise UsageError(f"{chosen.name} has no memory of its own for vram to divide; leave vram out.")
    return DeviceChoice(chosen.name, has_tier=has_budget or (chosen.is_gpu and not is_unified), is_unified=is_unified)


def parse_vram(vram: int | str | None) -> int | None:
    """Turns the `vram` argument into bytes; None for "auto" and None. Raises UsageError."""
    return None if vram is None or vram == "auto" else parse_bytes(vram)


def auto_vram(free_bytes: int, own_bytes: int) -> int:
    """The budget that `auto` stands for: what is free and what this model has already, less some headroom."""
    headroom_bytes = max(_AUTO_HEADROOM_BYTES, int(free_bytes * _AUTO_HEADROOM_SHARE))
    return max(0, free_bytes + own_bytes - headroom_bytes)


def check_vram(budget_bytes: int, needed_bytes: int, exact_bytes: int = 0, *, is_auto: bool = False) -> None:
    """Raises MemoryBudgetError if what the device must hold besides slots is more than the budget.

    Args:
        budget_bytes: The budget.
        needed_bytes: What no model runs without: dense weights, context, buffers.
        exact_bytes: What exact mode needs besides to compute prompts as llama.cpp does, 0: it may round otherwise.
        is_auto: Whether the budget is what is free.
    """
    floor_bytes = needed_bytes + exact_bytes + _MARGIN_BYTES
    if budget_bytes >= floor_bytes:
        return
    named_mib = -(-floor_bytes // _MIB)
    found = "the GPU's free memory, which allows a budget of" if is_auto else "a VRAM budget of"
    needs = "dense weights, context and buffers"
    remedy = "a shorter context needs less"
    if exact_bytes > 0:
        needs = "dense weights, context, buffers and one layer's experts (for llama.cpp's bits in prompts)"
        remedy += ", and so do prompts that may round otherwise (--host-compute on)"
    raise MemoryBudgetError(
        f"{found} {format_bytes(budget_bytes)}{',' if is_auto else ''} is too small for this model, whose {needs} need "
        f"more: the smallest that works is {named_mib}MiB; {remedy}.",
        named_mib * _MIB,
    )


def slot_bytes(budget_bytes: int, needed_bytes: int) -> int:
    """What a budget leaves for slots."""
    return max(0, budget_bytes - needed_bytes - _MARGIN_BYTES)
