"""Run Mixture-of-Experts GGUF models that do not fit in memory, on stock llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import HobbitError, HostError, MemoryBudgetError, ModelFileError, ReadError, UsageError
from .stats import Stats

if TYPE_CHECKING:
    from .llama import Llama
    from .planning import Plan, plan

__all__ = [
    "HobbitError",
    "HostError",
    "Llama",
    "MemoryBudgetError",
    "ModelFileError",
    "Plan",
    "ReadError",
    "Stats",
    "UsageError",
    "__version__",
    "plan",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # llama_cpp takes a good part of a second to import; `hobbit --help` does without it.
    if name == "Llama":
        from .llama import Llama

        return Llama
    if name in ("Plan", "plan"):
        from . import planning

        return getattr(planning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
