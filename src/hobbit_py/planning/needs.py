"""What a model needs besides its experts' slots, found by llama.cpp's own dry run: from headers alone, exactly."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from .. import _host
from .._host import _core, llama_cpp
from ..errors import ModelFileError
from ..memory import MAX_STREAM_BYTES, MemoryNeeds, floor_bytes, resident_bytes

_DEFAULT_MAX_CTX = 4096
_N_OUTPUT_ROWS = 9  # of logits: llama.cpp's one, and those that sampling works on


@dataclass(frozen=True)
class ModelNeeds:
    """A model's sizes in bytes, with a context of `n_ctx` tokens."""

    n_ctx: int
    memory: MemoryNeeds
    spare_io_bytes: int
    """What larger buffers for reading take at most, where there is room to spare."""
    kv_bytes_per_1k_tokens: int
    token_slot_bytes: int
    """Slots for the experts of one token, of the largest layers: the least a cache can be."""
    all_slots_bytes: int
    """Slots for every expert."""

    @property
    def floor_bytes(self) -> int:
        """The smallest budget that works."""
        return floor_bytes(self.memory, self.token_slot_bytes)

    def expert_memory_bytes(self, budget_bytes: int) -> int:
        """What a budget leaves for slots; negative below the floor."""
        return min(budget_bytes - self.memory.total_bytes, self.all_slots_bytes)


def measure_needs(path: Path, n_ctx: int | None = None) -> ModelNeeds:
    """Reads headers; the file's data may be missing, e.g. a sparse file. `n_ctx` None: the model's own, at most 4096.

    Raises ModelFileError.
    """
    try:
        engine = _core.Engine(os.fspath(path), _core.EngineOptions())
    except (_core.StoreError, OSError) as error:
        message = str(error)
        raise ModelFileError(message if message.endswith(".") else f"{message}.") from None
    if n_ctx is None:
        n_ctx = min(_DEFAULT_MAX_CTX, engine.get_int(f"{engine.architecture}.context_length", _DEFAULT_MAX_CTX))
    context = _dry_run(engine, n_ctx)
    longer = _dry_run(engine, n_ctx + 1024)
    least, most = _core.LoaderOptions(), _core.LoaderOptions()
    least.stream_bytes, most.stream_bytes = 0, MAX_STREAM_BYTES
    memory = MemoryNeeds(
        process_bytes=resident_bytes(),
        dense_bytes=context.dense_bytes,
        context_bytes=context.context_bytes,
        compute_bytes=context.compute_bytes,
        output_bytes=_N_OUTPUT_ROWS * context.n_vocab * 4,
        io_bytes=engine.io_bytes(least),
    )
    return ModelNeeds(
        n_ctx=n_ctx,
        memory=memory,
        spare_io_bytes=engine.io_bytes(most) - memory.io_bytes,
        kv_bytes_per_1k_tokens=(longer.context_bytes - context.context_bytes) * 1000 // 1024,
        token_slot_bytes=engine.token_slot_bytes,
        all_slots_bytes=engine.all_slots_bytes,
    )


def with_stream_buffers(needs: ModelNeeds, budget_bytes: int) -> ModelNeeds:
    """The same with the larger buffers for reading that the runtime takes where the budget has room to spare."""
    spare_bytes = max(0, budget_bytes - needs.memory.total_bytes)
    extra_bytes = min(needs.spare_io_bytes, spare_bytes // 8)
    return replace(needs, memory=replace(needs.memory, io_bytes=needs.memory.io_bytes + extra_bytes))


def _dry_run(engine: _core.Engine, n_ctx: int) -> _host.ContextNeeds:
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx = n_ctx
    context_params.n_batch = min(n_ctx, 512)
    context_params.n_ubatch = min(n_ctx, 512)
    return _host.measure(engine, llama_cpp.llama_model_default_params(), context_params)
