"""Sets an engine up to run the experts of one model: which copies, what is read ahead, what goes, how much memory."""

from __future__ import annotations

import os
from collections.abc import Callable

from ._host import ContextNeeds, _core
from ._memory_plan import Granted, MemoryPlan
from ._native_policies import set_eviction, to_native, to_native_filter
from ._native_prefetch import give_prefetch
from ._promises import Promise
from .choice import Choice
from .cores import n_spare_cores
from .errors import HobbitError, as_sentence
from .mixed import MixedSettings, check_copies, check_finer, lo_alone_settings, mixed_settings, wants_lo_alone
from .sizes import format_bytes
from .trained import give_gates, uses_gates
from .vram import DeviceChoice

_HELD_BACK_NOTE = (
    "The CPU multiplies by none of the experts that the GPU lacks whose products it would round otherwise; "
    "host_compute=True (--host-compute on) lets it, which is faster and gives up llama.cpp's last bits."
)


class ExpertSetup:
    """Made before a weight is read; then `check`, and `start` once the rest of the model is in memory.

    Raises ModelFileError for copies that are not this model's, UsageError for what cannot be run with.
    """

    def __init__(
        self,
        engine: _core.Engine,
        device: DeviceChoice,
        granted: Granted,
        chosen: Choice,
        lo: str | os.PathLike[str] | None,
        hi: str | os.PathLike[str] | None,
    ) -> None:
        self._engine = engine
        self._device = device
        self._chosen = chosen
        self._lo, self._hi = lo, hi
        self._is_trained = give_gates(engine)
        self.prefetch = chosen.prefetch(is_trained=self._is_trained)
        give_prefetch(engine, self.prefetch, is_trained=self._is_trained)
        self._router_filter = chosen.router_filter(engine.paths, lo, hi)
        if self._router_filter is not None:
            engine.set_router_filter(*to_native_filter(self._router_filter))
        check_copies(engine.paths, lo, hi)
        if hi is not None and lo is not None:
            check_finer(hi, engine.hi_expert_bytes, lo, engine.lo_expert_bytes)
        self._plan = MemoryPlan(engine, device, granted, may_round_otherwise=chosen.host_compute is True)
        self.memory_bytes = self._plan.memory_bytes
        """The budget of the whole process; 0 if only that of the experts is known."""
        self.eviction: str | None = None
        """The eviction policy in words; after `start`."""
        self._notes: list[str] = []

    @property
    def note(self) -> str | None:
        """What the user should know of how the model runs; after `start`."""
        return " ".join(self._notes) or None

    @property
    def holds_lo(self) -> bool:
        """Whether a GPU holds every expert, in its lo copy; after `start`."""
        return self._plan.held == _core.Precision.lo

    def check(self, measure: Callable[[], ContextNeeds], n_output_rows: int) -> None:
        """Raises MemoryBudgetError if a budget is below what the model needs by llama.cpp's dry run, `measure`."""
        self._plan.check(measure, n_output_rows)

    def start(self, in_use: ContextNeeds, n_output_rows: int, *, may_spare_cores: bool) -> Promise:
        """Gives the engine its memory, by what the model and its context hold now; returns what others must leave free.

        Raises MemoryBudgetError if what is free of the GPU's memory is too little, and HobbitError for an eviction
        policy of one's own that fails.
        """
        engine, plan, options = self._engine, self._plan, self._plan.loader_options
        plan.grant(in_use, n_output_rows, self._free_vram_bytes, lo_alone=self._wants_lo_alone())
        promise = plan.promise(in_use, n_output_rows)
        if self._lo is not None:
            self._set_precision(self._mixed_settings(self._lo))
        elif plan.missing_vram_bytes > 0:
            self._notes.append(
                "Prompts round otherwise than llama.cpp's, a few experts at a time: the GPU lacks "
                f"{format_bytes(plan.missing_vram_bytes)} for all experts of one layer."
            )
        options.fill = self.prefetch.predictor != "none" and plan.held is None
        engine.set_host_compute(self._chosen.host_compute)
        self._set_eviction()
        try:
            engine.set_expert_memory(options)
        except RuntimeError as error:  # of an eviction policy of one's own
            raise HobbitError(as_sentence(str(error))) from error
        if self._device.has_tier:
            engine.set_device_memory(plan.tier_options)
            if plan.held is None and engine.is_host_held_back:
                self._notes.append(_HELD_BACK_NOTE)
        elif may_spare_cores:
            engine.set_spare_threads(n_spare_cores())
        if plan.held is not None:
            engine.fill_device_memory(plan.held)
        return promise

    def _wants_lo_alone(self) -> bool:
        engine, chosen = self._engine, self._chosen
        return self._lo is not None and wants_lo_alone(
            engine.paths, self._lo, engine.min_lo_bits, policy=chosen.policy, lo_share=chosen.lo_share, hi=self._hi
        )

    def _mixed_settings(self, lo: str | os.PathLike[str]) -> MixedSettings:
        engine, chosen, router_filter = self._engine, self._chosen, self._router_filter
        if self._plan.is_lo_alone:
            return lo_alone_settings(engine.paths, lo, is_held=self.holds_lo, router_filter=router_filter, hi=self._hi)
        return mixed_settings(
            engine.paths,
            lo,
            engine.n_expert_used,
            len(engine.n_expert),
            policy=chosen.policy,
            lo_share=chosen.lo_share,
            memory_share=self._plan.loader_options.expert_memory_bytes / engine.all_slots_bytes,
            lo_ratio=engine.all_lo_slots_bytes / engine.all_slots_bytes,
            has_tier=self._device.has_tier,
            router_filter=router_filter,
            hi=self._hi,
        )

    def _set_precision(self, settings: MixedSettings) -> None:
        self._notes.append(settings.note)
        is_asked = self._plan.is_lo_alone or self._chosen.lo_share is not None
        self._plan.divide_by_precision(settings.lo_share, is_asked=is_asked)
        self._engine.set_precision_policy(to_native(settings.policy), self._chosen.skip_renorm)

    def _set_eviction(self) -> None:
        engine, options = self._engine, self._plan.loader_options
        precision = "exact" if self._lo is None else "mixed"
        evicting = self._chosen.eviction_for(engine.paths, options.expert_memory_bytes, precision)
        self.eviction = evicting.description
        if evicting.is_tuned:
            self._notes.append(f"Eviction: {evicting.description}.")
        set_eviction(options, evicting.policy)
        if self._is_trained and uses_gates(self.prefetch, evicting.policy):
            self._notes.append("Gates: trained by hobbit tune.")
        else:
            engine.set_trained_gates(None)

    def _free_vram_bytes(self) -> int:
        return next(info.free_bytes for info in _core.devices() if info.name == self._device.name)
