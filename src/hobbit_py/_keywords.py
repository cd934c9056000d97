"""Which keywords `Llama` takes: llama_cpp.Llama's, which itself swallows what it does not know, and its own."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from ._host import llama_cpp
from .errors import UsageError

_STOCK_KEYWORDS = frozenset(inspect.signature(llama_cpp.Llama.__init__).parameters) - {"self", "model_path", "kwargs"}
_OWN_KEYWORDS = frozenset(
    [
        "memory",
        "expert_memory",
        "preset",
        "precision",
        "lo",
        "hi",
        "lo_share",
        "policy",
        "skip_renorm",
        "eviction",
        "prefetch",
        "router_filter",
        "warm_start",
        "progress",
        "vram",
        "expert_vram",
        "device",
        "unified",
        "host_compute",
    ]
)


def check_keywords(keywords: dict[str, Any]) -> None:
    """Raises TypeError for a keyword that is neither's."""
    for name in keywords:
        if name not in _STOCK_KEYWORDS:
            nearest = difflib.get_close_matches(name, [*_STOCK_KEYWORDS, *_OWN_KEYWORDS], n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"Llama() got an unexpected keyword argument {name!r}{hint}")


def check_expert_keywords(keywords: dict[str, Any]) -> None:
    """Refuses what would contradict holding only some of the experts."""
    if keywords.get("use_mlock"):
        raise UsageError(
            "use_mlock=True would keep the whole model in memory, which is what hobbit_py avoids; leave it out."
        )
    if keywords.get("vocab_only"):
        raise UsageError("vocab_only=True loads no weights; use llama_cpp.Llama for that.")
    if keywords.get("n_gpu_layers", 0) not in (0, -1):
        raise UsageError(
            "n_gpu_layers has no meaning here: with vram all layers run on the GPU and without it none; leave it out."
        )
