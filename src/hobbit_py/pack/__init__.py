"""Makes the lo copy of a model: the same experts in a smaller type, in a GGUF of their own (docs/pack.md)."""

from __future__ import annotations

from .fingerprint import verify
from .paths import find_lo
from .types import LO_TYPES, LoTypes
from .writer import pack

__all__ = ["LO_TYPES", "LoTypes", "find_lo", "pack", "verify"]
