"""What this process holds, with what its models were promised and have not touched yet."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Protocol

from .memory import resident_bytes


class Engine(Protocol):
    """Of a native engine what is asked here."""

    def unfilled_bytes(self) -> int:
        """Bytes of its slots that are not resident."""


@dataclass(frozen=True)
class Promise:
    """What a model was loaded with, in bytes."""

    own_bytes: int
    """All that it may come to hold: weights, context, buffers, margin, slots."""
    rest_bytes: int
    """What the process held then besides its models."""


live_engines: weakref.WeakKeyDictionary[Engine, Promise] = weakref.WeakKeyDictionary()
"""Of this process's models with an expert cache."""


def process_bytes(loaded_bytes: int = 0) -> int:
    """Resident set of this process once its models use all that they were promised.

    `loaded_bytes` of it are of a model that has no promise yet. Of slots it is known what is resident, of llama.cpp's
    buffers, logits and stream buffers it is not: memory that the caller took since a promise may pass for these.
    """
    unfilled = unfilled_bytes()  # first: what is filled meanwhile counts twice, and not never
    rest_bytes = max((promise.rest_bytes for promise in list(live_engines.values())), default=0)
    return max(resident_bytes() + unfilled, own_bytes() + rest_bytes + loaded_bytes)


def own_bytes() -> int:
    """What the models of this process may come to hold in all."""
    return sum(promise.own_bytes for promise in list(live_engines.values()))


def unfilled_bytes() -> int:
    """What was granted to the experts of this process's models and is not resident yet."""
    return sum(engine.unfilled_bytes() for engine in list(live_engines))
