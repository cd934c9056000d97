"""A model with a tier of its own above main memory, for which the CPU stands in."""

from pathlib import Path

from support import N_CTX

import hobbit_py
from hobbit_py.policies import PrecisionPolicy


def tiered_llama(
    path: Path,
    *,
    expert_vram: int,
    expert_memory: int,
    host_compute: bool | None = True,
    lo: Path | None = None,
    lo_share: float | None = None,
    policy: PrecisionPolicy | None = None,
) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        str(path),
        device="CPU",
        expert_vram=expert_vram,
        expert_memory=expert_memory,
        host_compute=host_compute,
        precision="exact" if lo is None else "mixed",
        lo=lo,
        lo_share=lo_share,
        policy=policy,
        n_ctx=N_CTX,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
    )
