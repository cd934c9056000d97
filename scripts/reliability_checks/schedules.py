"""Random plans of what goes wrong while a model is used; the same seed and number give the same plan."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass

from .preload import FOREVER, Fault, Kind

ARCHS = ("qwen3moe", "llama", "deepseek2-fused")
MEMORIES = (0, 15, 40, 100)  # percent of the experts that fit; 0: everything streams
PROMPTS = (1, 7, 40)
FILE_EVENTS = ("truncate", "overwrite", "replace", "delete")
_MAX_READS = 60  # about as many as a request does
_ERRORS = (errno.EIO, errno.EIO, errno.EINTR, errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.EINVAL, errno.ESTALE)
_LONG_STALL_MS = 5000


@dataclass(frozen=True)
class Schedule:
    """A model, how it is loaded, and for each request what happens during it."""

    number: int
    arch: str
    memory_percent: int
    mixed: bool
    prefetch: bool
    lo_is_hit: bool  # the faults are about the lo copy's file
    requests: tuple[tuple[int, tuple[Fault, ...]], ...]  # (tokens of the prompt, faults)
    file_event: str | None  # at a read with Kind.CALL

    def __str__(self) -> str:
        kind = ("mixed, lo fails" if self.lo_is_hit else "mixed, hi fails") if self.mixed else "exact"
        requests = "; ".join(f"{n} tokens: {', '.join(map(str, faults)) or 'nothing'}" for n, faults in self.requests)
        return (
            f"schedule {self.number}: {self.arch}, {self.memory_percent}% in memory, {kind}, "
            f"prefetch {'on' if self.prefetch else 'off'}, file event {self.file_event}: {requests}"
        )


def make_schedule(seed: int, number: int) -> Schedule:
    rng = random.Random(f"{seed}/{number}")
    mixed = rng.random() < 0.3
    requests = [(rng.choice(PROMPTS), _faults(rng)) for _ in range(3)]
    file_event = rng.choice(FILE_EVENTS) if rng.random() < 0.3 else None
    if file_event is not None:
        idx = rng.randrange(len(requests))
        at = rng.randrange(8)
        requests[idx] = (requests[idx][0], (Fault(at, at, Kind.CALL), *requests[idx][1]))
    if number % 100 == 99:
        requests[0] = (requests[0][0], (Fault(0, 0, Kind.STALL, _LONG_STALL_MS),))
    return Schedule(
        number=number,
        arch=rng.choice(ARCHS),
        memory_percent=rng.choice(MEMORIES),
        mixed=mixed,
        prefetch=rng.random() < 0.5,
        lo_is_hit=mixed and rng.random() < 0.5,
        requests=tuple(requests),
        file_event=file_event,
    )


def _faults(rng: random.Random) -> tuple[Fault, ...]:
    return tuple(_fault(rng) for _ in range(rng.randrange(4)))


def _fault(rng: random.Random) -> Fault:
    first = rng.randrange(_MAX_READS)
    kind = rng.choice((Kind.FAIL, Kind.FAIL, Kind.SHORTEN, Kind.STALL))
    if kind is Kind.STALL:
        return Fault(first, first + rng.randrange(3), kind, rng.randrange(1, 20))
    length = rng.choice((1, 2, 8))
    if kind is Kind.SHORTEN:
        return Fault(first, first + length - 1, kind, rng.randrange(1000))
    number = rng.choice(_ERRORS)
    if number != errno.EINTR and rng.random() < 0.25:
        return Fault(first, FOREVER, kind, number)
    return Fault(first, first + length - 1, kind, number)
