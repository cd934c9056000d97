"""Whether this machine and what is installed on it will run a model well (`hobbit doctor`)."""

from __future__ import annotations

from .checks import Check, Level, run_checks

__all__ = ["Check", "Level", "run_checks"]
