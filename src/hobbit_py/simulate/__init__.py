"""Judges policies on recorded routing, without the model; see docs/policies.md."""

from __future__ import annotations

from .trace import Trace, load_trace, save_trace

__all__ = ["Trace", "load_trace", "save_trace"]
