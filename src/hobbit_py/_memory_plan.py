"""Divides what a model was granted: memory of the process, and of a GPU, between its experts and all else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ._host import ContextNeeds, _core
from ._promises import Promise, own_bytes, process_bytes
from .memory import MAX_STREAM_BYTES, MemoryNeeds, auto_budget, check_budget
from .vram import DeviceChoice, auto_vram, check_vram, slot_bytes

_STREAM_SHARE = 1 / 8  # of what is left for experts: the buffers through which those without a slot pass
_N_SAMPLER_ROWS = 8  # rows of the vocabulary that sampling works on, in llama.cpp and in Python
_N_PASSING_TOKENS = 4  # the slots in RAM, in tokens' worth, through which experts pass that all fit on the GPU


@dataclass(frozen=True)
class Granted:
    """What the user granted, in bytes; None: `memory` is what is free, experts get what is left."""

    memory_bytes: int | None
    expert_memory_bytes: int | None
    vram_bytes: int | None
    expert_vram_bytes: int | None


class MemoryPlan:
    """First `check`, before a weight is read, then `grant`, once the rest of the model is in memory."""

    def __init__(
        self, engine: _core.Engine, device: DeviceChoice, granted: Granted, *, may_round_otherwise: bool = False
    ) -> None:
        self._engine = engine
        # Of one layer's experts, which exact mode brings together on a GPU to have llama.cpp's bits in batches.
        self._layer_bytes = 0 if may_round_otherwise else engine.least_device_bytes
        self._device = device
        self._granted = granted
        self._is_auto = granted.memory_bytes is None
        self._whole_process = granted.expert_memory_bytes is None
        self.memory_bytes = (
            0 if not self._whole_process else auto_budget() if granted.memory_bytes is None else granted.memory_bytes
        )
        """The budget of the whole process; 0 if only that of the experts is known."""
        self.loader_options = _core.LoaderOptions()
        self._max_stream_bytes = self.loader_options.stream_bytes if device.has_tier else MAX_STREAM_BYTES
        if self._whole_process:
            self.loader_options.stream_bytes = 0  # the least that works, until it is known what is left
        self.tier_options = _core.TierOptions()
        self.held: _core.Precision | None = None
        """The precision in which a GPU holds every expert, and needs no other copy; after `grant`."""
        self.is_lo_alone = False
        """Whether nothing but lo copies is used; after `grant`."""
        self.missing_vram_bytes = 0
        """What a GPU lacks for batches to be llama.cpp's products, in exact mode; after `grant`."""
        self._area_bytes = 0  # for a layer's experts in order
        self._ring_bytes = engine.device_bytes(self.tier_options) if device.has_tier else 0

    def check(self, measure: Callable[[], ContextNeeds], n_output_rows: int) -> None:
        """Raises MemoryBudgetError if a budget is below what the model needs by llama.cpp's dry run, `measure`."""
        vram_bytes = self._granted.vram_bytes
        if not self._whole_process and vram_bytes is None:
            return
        context = measure()
        if vram_bytes is not None:
            self._check_vram(vram_bytes, context)
        if self._whole_process:
            needs = self._needs(self._of_host(context), n_output_rows)
            engine = self._engine
            least_bytes = min(engine.token_slot_bytes + engine.layer_area_bytes, engine.all_slots_bytes)
            check_budget(self.memory_bytes, needs, least_bytes, is_auto=self._is_auto)

    def grant(
        self, in_use: ContextNeeds, n_output_rows: int, free_vram_bytes: Callable[[], int], *, lo_alone: bool = False
    ) -> None:
        """Fills in the options' sizes, by what the model and its context hold now.

        With `lo_alone` a GPU that has no room for every expert in hi gets no hi copy at all.

        Raises MemoryBudgetError if what is free of the GPU's memory is too little.
        """
        engine = self._engine
        if self._device.has_tier:
            self._grant_device(self._expert_vram(in_use, free_vram_bytes), lo_alone=lo_alone)
        if self._granted.expert_memory_bytes is None:
            spare_bytes = max(0, self.memory_bytes - self._needs_now(in_use, n_output_rows).total_bytes)
            self.loader_options.stream_bytes = min(self._max_stream_bytes, int(spare_bytes * _STREAM_SHARE))
            expert_bytes = max(0, self.memory_bytes - self._needs_now(in_use, n_output_rows).total_bytes)
            if expert_bytes < engine.all_slots_bytes:
                self._area_bytes = engine.layer_area_bytes
                expert_bytes = max(0, expert_bytes - self._area_bytes)
        else:
            expert_bytes = self._granted.expert_memory_bytes
        if self.held is not None:
            expert_bytes = min(expert_bytes, _N_PASSING_TOKENS * engine.token_slot_bytes)
        # Below a GPU both copies of an expert are of use: which is copied there is decided anew for every miss.
        most_bytes = engine.all_lo_slots_bytes if self._device.has_tier else 0
        most_bytes += 0 if self.is_lo_alone else engine.all_slots_bytes
        self.loader_options.expert_memory_bytes = min(expert_bytes, most_bytes)

    def promise(self, in_use: ContextNeeds, n_output_rows: int) -> Promise:
        """What later models have to respect of this one; after `grant`."""
        host = self._of_host(in_use)
        needs = self._needs_now(in_use, n_output_rows)
        loaded_bytes = host.dense_bytes + host.context_bytes
        to_come_bytes = needs.total_bytes - needs.process_bytes + self.loader_options.expert_memory_bytes
        to_come_bytes += self._area_bytes
        return Promise(
            own_bytes=loaded_bytes + to_come_bytes,
            rest_bytes=max(0, needs.process_bytes - loaded_bytes - own_bytes()),
        )

    def divide_by_precision(self, lo_share: float, *, is_asked: bool) -> None:
        """Gives lo copies their share of the memory; not `is_asked`: where they are of use. After `grant`."""
        expert_bytes = self.loader_options.expert_memory_bytes
        left_by_hi = max(0, expert_bytes - self._engine.all_slots_bytes) / max(1, expert_bytes)
        # Only below a GPU is there memory for more than all experts in hi (see grant).
        self.loader_options.lo_share = lo_share if is_asked else max(lo_share, left_by_hi)
        # A lo copy comes quickly from RAM, so slots on the device are worth more for hi copies (docs/gpu.md).
        self.tier_options.lo_share = lo_share if is_asked else 0.0

    def _grant_device(self, expert_bytes: int, *, lo_alone: bool) -> None:
        engine, options = self._engine, self.tier_options
        options.expert_bytes = min(expert_bytes, engine.all_device_bytes)
        if options.expert_bytes == engine.all_device_bytes:
            self.held = _core.Precision.hi
            return
        self.is_lo_alone = lo_alone
        self.missing_vram_bytes = max(0, engine.least_device_bytes - options.expert_bytes)
        if lo_alone:
            fewest = _core.TierOptions()
            fewest.ring_bytes = 0  # buffers for copies of one use: if all is held there are none
            spared_bytes = max(0, self._ring_bytes - engine.device_bytes(fewest))
            if engine.all_lo_device_bytes <= expert_bytes + spared_bytes:
                self.held = _core.Precision.lo
                options.expert_bytes = engine.all_lo_device_bytes
                options.ring_bytes = 0 if spared_bytes > 0 else options.ring_bytes

    def _expert_vram(self, in_use: ContextNeeds, free_vram_bytes: Callable[[], int]) -> int:
        if self._granted.expert_vram_bytes is not None:
            return self._granted.expert_vram_bytes
        vram_bytes = self._granted.vram_bytes
        if vram_bytes is None:
            vram_bytes = auto_vram(free_vram_bytes(), in_use.device_bytes)
            if self._layer_bytes > 0:
                self._check_vram(vram_bytes, in_use, is_auto=True)
        left_bytes = slot_bytes(vram_bytes, in_use.device_bytes)
        return max(0, left_bytes - self._fit_ring(left_bytes))

    def _check_vram(self, vram_bytes: int, context: ContextNeeds, *, is_auto: bool = False) -> None:
        least = _core.TierOptions()
        least.ring_bytes = 0 if self._layer_bytes > 0 else least.ring_bytes  # it gives way, see _fit_ring
        needed_bytes = context.device_bytes + self._engine.device_bytes(least)
        check_vram(vram_bytes, needed_bytes, self._layer_bytes, is_auto=is_auto)

    def _fit_ring(self, left_bytes: int) -> int:
        """Bytes for copies of one use: as many as the options say, or fewer if a layer has no room besides."""
        missing_bytes = self._engine.least_device_bytes - (left_bytes - self._ring_bytes)
        smaller = _core.TierOptions()
        for ring_bytes in (max(0, smaller.ring_bytes - missing_bytes), 0) if missing_bytes > 0 else ():
            smaller.ring_bytes = ring_bytes
            fewer_bytes = self._engine.device_bytes(smaller)
            if self._engine.least_device_bytes <= left_bytes - fewer_bytes:
                self.tier_options.ring_bytes = ring_bytes
                self._ring_bytes = fewer_bytes
                break
        return self._ring_bytes

    def _of_host(self, context: ContextNeeds) -> ContextNeeds:
        """A device without memory of its own holds what is its in the host's."""
        if self._device.has_tier:
            return context
        return replace(context, compute_bytes=context.compute_bytes + context.device_bytes, device_bytes=0)

    def _needs_now(self, in_use: ContextNeeds, n_output_rows: int) -> MemoryNeeds:
        """Once weights and context are resident, and so counted with the process."""
        host = self._of_host(in_use)
        left = replace(host, dense_bytes=0, context_bytes=0)
        return self._needs(left, n_output_rows, loaded_bytes=host.dense_bytes + host.context_bytes)

    def _needs(self, context: ContextNeeds, n_output_rows: int, loaded_bytes: int = 0) -> MemoryNeeds:
        return MemoryNeeds(
            process_bytes=process_bytes(loaded_bytes),
            dense_bytes=context.dense_bytes,
            context_bytes=context.context_bytes,
            compute_bytes=context.compute_bytes,
            output_bytes=(n_output_rows + _N_SAMPLER_ROWS) * context.n_vocab * 4,
            io_bytes=self._engine.io_bytes(self.loader_options),
        )
