"""`plan`: what a model needs, what a budget buys, how fast it should be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..bench.drive import best_random_reads
from ..bench.machine import processor_name
from ..bench.stored import StoredBench, load_bench
from ..bundled import bundled_model
from ..cores import n_usable_cores
from ..errors import ModelFileError
from ..inspection import Inspection, TensorGroup, inspect_model
from ..memory import auto_budget
from ..pack.gguf_file import open_header
from ..pack.quantize import tensor_type_named
from ..pack.types import fitting_type
from ..sizes import parse_bytes
from .compute import measure_matmul
from .needs import ModelNeeds, measure_needs, with_stream_buffers
from .reuse import LITTLE_REUSE, MUCH_REUSE, ReuseCurve
from .speed import MachineSpeed, token_s

ERROR_SHARE = 0.25  # of tok/s, beside what is not known of the reuse
_DEFAULT_SHARES = (0.25, 0.5, 0.75, 1.0)
_ROUND_BYTES = 64 << 20
_LO_CANDIDATES = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
_HELD_TYPES = ("Q6_K", "Q5_K", "Q4_K")  # of lo copies that a GPU uses alone
_WORTH_PACKING = 1.15  # of exact mode's speed
_NEARLY_AS_FAST = 0.9


@dataclass(frozen=True)
class LoPlan:
    """A lo copy that `hobbit pack` could make."""

    type: str
    n_bytes: int
    tok_s: float


@dataclass(frozen=True)
class BudgetPlan:
    """What a budget of the whole process buys; sizes in bytes, speeds in tokens per second with a short context."""

    memory_bytes: int
    fits: bool
    """Whether it is above the floor; if not, the rest is zero or None."""
    expert_memory_bytes: int
    n_slots: int
    """Experts in memory, of all layers."""
    resident_share: float
    hit_rate: float | None
    read_bytes_per_token: float | None
    compute_s: float | None
    io_s: float | None
    tok_s: float | None
    """Exact mode. The next two are the range to expect."""
    tok_s_low: float | None
    tok_s_high: float | None
    lo: LoPlan | None
    """The lo copy worth packing for this budget; None if none is."""


@dataclass(frozen=True)
class VramPlan:
    """How a GPU's memory would be used: dense weights and context first, then experts."""

    vram_bytes: int
    dense_fits: bool
    expert_memory_bytes: int
    n_slots: int
    lo_type: str | None
    """The most accurate type of lo copies that all fit, where experts as they are do not; None: there is none."""


@dataclass(frozen=True)
class Plan:
    """A model, its needs and its speeds on this machine; sizes in bytes."""

    model: str
    architecture: str
    file_bytes: int
    expert_bytes: int
    dense_bytes: int
    n_layers: int
    n_expert: int
    n_expert_used: int
    expert_bytes_per_token: int
    """Bytes of the experts that a token uses."""
    n_ctx: int
    kv_bytes_per_1k_tokens: int
    floor_bytes: int
    """The smallest budget of the whole process that works, with n_ctx tokens of context."""
    speed: MachineSpeed
    reuse: str
    """Where the hit rates come from."""
    budgets: tuple[BudgetPlan, ...]
    vram: VramPlan | None


def plan(
    model: str | os.PathLike[str],
    *,
    memory: int | str | Sequence[int | str] | None = None,
    vram: int | str | None = None,
    n_ctx: int | None = None,
    n_threads: int | None = None,
    drive: str | os.PathLike[str] | None = None,
    drive_bytes_s: float | None = None,
) -> Plan:
    """Predicts needs and speeds of a model from its headers, the drive's bandwidth and the time of a matmul.

    Args:
        model: GGUF file, the first part of a split one, or ORG/REPO[:QUANT] on the hub, of which only headers are
            fetched (extra [hub]).
        memory: Budgets of the whole process in bytes, as text ("8GiB") or "auto". None: those that hold a quarter, a
            half, three quarters and all of the experts.
        vram: Memory of a GPU in bytes or as text.
        n_ctx: Context length in tokens; None: the model's own, at most 4096.
        n_threads: Compute threads; None: every core this process may use.
        drive: A large file on the drive that the model will be on; None: the model itself, for one on the hub the
            bundled model.
        drive_bytes_s: The drive's bandwidth at random direct reads, instead of measuring it.

    Raises:
        ModelFileError: The file is missing, damaged, or has no experts.
        HobbitError: The hub cannot be reached, the drive cannot be measured.
        UsageError: A size cannot be read, or a name is none of the hub.
    """
    from ..hub.reference import Reference

    reference = Reference.of_argument(model)
    with ExitStack() as stack:
        path = Path(model)
        if reference is not None:
            from .remote import fetched_headers

            path = stack.enter_context(fetched_headers(reference))
            drive = drive or bundled_model()
        found = inspect_model(path)
        if not found.groups:
            raise ModelFileError(f"{os.fspath(model)!r} has no experts: it runs as plain llama.cpp, in full memory.")
        needs = measure_needs(path, n_ctx)
        stored = None if reference is not None else load_bench(path, found.file_bytes)
        shape = _Shape.of(found)
    n_threads = n_threads or n_usable_cores()
    if drive_bytes_s is None:
        drive_bytes_s = best_random_reads(Path(drive or path), shape.matrix_bytes)
    speed = MachineSpeed(drive_bytes_s, _matmul_bytes_s(shape.usual, n_threads), n_threads)
    predictor = _Predictor(shape, needs, speed, stored)
    return Plan(
        model=os.fspath(model),
        architecture=found.architecture,
        file_bytes=found.file_bytes,
        expert_bytes=found.expert_bytes,
        dense_bytes=found.dense_bytes,
        n_layers=shape.n_layers,
        n_expert=max(group.n_expert for group in found.groups),
        n_expert_used=found.n_expert_used,
        expert_bytes_per_token=shape.expert_bytes_per_token,
        n_ctx=needs.n_ctx,
        kv_bytes_per_1k_tokens=needs.kv_bytes_per_1k_tokens,
        floor_bytes=needs.floor_bytes,
        speed=speed,
        reuse=predictor.reuse.source,
        budgets=tuple(predictor.budget(n_bytes) for n_bytes in _budgets(memory, needs)),
        vram=None if vram is None else predictor.vram(parse_bytes(vram)),
    )


@dataclass(frozen=True)
class _Shape:
    """What of a model matters for its speed."""

    groups: tuple[TensorGroup, ...]
    n_layers: int
    n_expert_used: int
    n_experts: int
    """Of all layers."""
    dense_bytes_per_token: int

    @classmethod
    def of(cls, found: Inspection) -> _Shape:
        n_layers, embedding_bytes, has_output = 0, 0, False
        for path in found.paths:
            with open_header(path) as header:
                n_layers = n_layers or header.get_u32(f"{found.architecture}.block_count") or 0
                for tensor in header.tensors():
                    if tensor.name == "token_embd.weight":
                        embedding_bytes = tensor.n_bytes
                    has_output = has_output or tensor.name == "output.weight"
        # Of the embedding a token reads one row, unless it is the output layer's matrix as well.
        unread_bytes = embedding_bytes if has_output else 0
        n_experts = {layer: group.n_expert for group in found.groups for layer in group.layers}
        return cls(
            found.groups, n_layers, found.n_expert_used, sum(n_experts.values()), found.dense_bytes - unread_bytes
        )

    @property
    def usual(self) -> TensorGroup:
        return max(self.groups, key=lambda group: group.total_bytes)

    @property
    def matrix_bytes(self) -> int:
        return self.usual.matrix_bytes

    @property
    def expert_bytes_per_token(self) -> int:
        return sum(self.n_expert_used * group.matrix_bytes * len(group.layers) for group in self.groups)

    def lo_bytes(self, type_name: str) -> int:
        """Bytes of all experts in that type, or in the one that pack would take for rows it does not fit."""
        n_bytes = 0
        for group in self.groups:
            kind = tensor_type_named(fitting_type(type_name, group.n_in))
            n_bytes += kind.row_bytes(group.n_in) * group.n_out * group.n_expert * len(group.layers)
        return n_bytes

    @property
    def hi_bytes(self) -> int:
        return sum(group.total_bytes for group in self.groups)


class _Predictor:
    """Budgets to speeds."""

    def __init__(self, shape: _Shape, needs: ModelNeeds, speed: MachineSpeed, stored: StoredBench | None) -> None:
        self._shape = shape
        self._needs = needs
        self._speed = speed
        self.reuse, self._best_reuse = LITTLE_REUSE, MUCH_REUSE
        if stored is not None and stored.reuse:
            self.reuse = self._best_reuse = ReuseCurve("measured by hobbit bench", stored.reuse)
        weight_bytes = shape.expert_bytes_per_token + shape.dense_bytes_per_token
        self._compute_s = speed.compute_s(weight_bytes, shape.n_layers)
        if stored is not None and stored.compute_s is not None and _is_here(stored, speed):
            self._compute_s = stored.compute_s

    def budget(self, memory_bytes: int) -> BudgetPlan:
        needs = with_stream_buffers(self._needs, memory_bytes)
        if memory_bytes < self._needs.floor_bytes:
            return BudgetPlan(memory_bytes, False, 0, 0, 0.0, *[None] * 8)
        expert_bytes = needs.expert_memory_bytes(memory_bytes)
        share = expert_bytes / needs.all_slots_bytes
        read_share = self.reuse.read_share(share)
        read_bytes = self._shape.expert_bytes_per_token * read_share
        tok_s = self._tok_s(read_bytes)
        best_tok_s = self._tok_s(self._shape.expert_bytes_per_token * self._best_reuse.read_share(share))
        return BudgetPlan(
            memory_bytes=memory_bytes,
            fits=True,
            expert_memory_bytes=expert_bytes,
            n_slots=int(share * self._shape.n_experts),
            resident_share=share,
            hit_rate=1 - min(1.0, read_share),
            read_bytes_per_token=read_bytes,
            compute_s=self._compute_s,
            io_s=self._speed.io_s(read_bytes),
            tok_s=tok_s,
            tok_s_low=tok_s * (1 - ERROR_SHARE),
            tok_s_high=max(tok_s, best_tok_s) * (1 + ERROR_SHARE),
            lo=self._lo(tok_s, read_bytes),
        )

    def vram(self, vram_bytes: int) -> VramPlan:
        memory = self._needs.memory
        left_bytes = vram_bytes - memory.dense_bytes - memory.context_bytes - memory.compute_bytes
        expert_bytes = max(0, min(left_bytes, self._needs.all_slots_bytes))
        n_slots = int(expert_bytes / self._needs.all_slots_bytes * self._shape.n_experts)
        fitting = [name for name in _HELD_TYPES if self._shape.lo_bytes(name) <= expert_bytes]
        lo_type = fitting[0] if fitting and n_slots < self._shape.n_experts else None
        return VramPlan(vram_bytes, left_bytes >= 0, expert_bytes, n_slots, lo_type)

    def _tok_s(self, read_bytes: float) -> float:
        return 1 / token_s(self._compute_s, self._speed.io_s(read_bytes))

    def _lo(self, exact_tok_s: float, read_bytes: float) -> LoPlan | None:
        """The most accurate type that is nearly as fast as the fastest; None if that gains little."""
        candidates = []
        for name in _LO_CANDIDATES:
            n_bytes = self._shape.lo_bytes(name)
            share = n_bytes / self._shape.hi_bytes
            # With more than two experts used, all but the best may go lo, and what is read shrinks nearly as the
            # copies do; with two, about every other miss is a best expert's (docs/accuracy.md).
            bytes_ratio = share if self._shape.n_expert_used > 2 else (1 + share) / 2
            if share < 0.9:
                candidates.append(LoPlan(name, n_bytes, self._tok_s(read_bytes * bytes_ratio)))
        if not candidates:
            return None
        fastest = max(candidate.tok_s for candidate in candidates)
        wanted = max(fastest * _NEARLY_AS_FAST, exact_tok_s * _WORTH_PACKING)
        return next((candidate for candidate in candidates if candidate.tok_s >= wanted), None)


def _is_here(stored: StoredBench, speed: MachineSpeed) -> bool:
    return stored.processor == processor_name() and stored.n_threads == speed.n_threads


def _matmul_bytes_s(group: TensorGroup, n_threads: int) -> float:
    kind = tensor_type_named(group.type)
    return measure_matmul(kind.id, group.n_in, group.n_out, group.matrix_bytes, n_threads)


def _budgets(memory: int | str | Sequence[int | str] | None, needs: ModelNeeds) -> Iterable[int]:
    if memory is None:
        # A round size that holds the share, and the buffers for reading that come on top.
        wanted = (needs.memory.total_bytes + needs.all_slots_bytes * share + _ROUND_BYTES for share in _DEFAULT_SHARES)
        return [max(needs.floor_bytes, -(-int(n_bytes) // _ROUND_BYTES) * _ROUND_BYTES) for n_bytes in wanted]
    sizes = [memory] if isinstance(memory, (int, str)) else memory
    return [auto_budget() if size == "auto" else parse_bytes(size) for size in sizes]
