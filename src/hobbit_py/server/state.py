"""What the page shows of the model at one moment."""

from __future__ import annotations

from ..llama import Llama
from .worker import Worker


def snapshot(llama: Llama, worker: Worker, model_name: str) -> dict[str, object]:
    """The answer of /state.

    `layers` has a string for each layer that has experts, with a digit for each of them: 0 absent, 1 loading, 2 in
    low precision, 3 in high precision. Counters are since the start; times in seconds.
    """
    stats = llama.stats()
    counts = worker.counts
    rows = [(idx, row) for idx, row in enumerate(llama.residency()) if row]
    return {
        "model": model_name,
        "precision": stats.precision,
        "layer_idxs": [idx for idx, _row in rows],
        "layers": ["".join(map(str, row)) for _idx, row in rows],
        "busy": worker.busy,
        "n_waiting": worker.n_waiting,
        "n_tokens": counts.n_prompt_tokens + counts.n_generated_tokens,
        "n_generated_tokens": counts.n_generated_tokens,
        "last_tok_s": counts.last_tok_s,
        "n_hits": stats.n_hits_hi + stats.n_hits_lo,
        "n_misses": stats.n_misses_hi + stats.n_misses_lo,
        "read_bytes": stats.read_bytes,
        "stall_s": stats.stall_us / 1e6,
        "resident_bytes": stats.resident_bytes_hi + stats.resident_bytes_lo,
        "expert_memory_bytes": stats.expert_memory_bytes,
    }
