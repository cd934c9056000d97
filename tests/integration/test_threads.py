"""How many threads a model computes with if nobody says so."""

from contextlib import closing
from typing import Any

import pytest
from support import ArenaSize, ModelFactory, arena_bytes

import hobbit_py
from hobbit_py import cores
from hobbit_py._host import llama_cpp


@pytest.mark.parametrize(
    ("arena", "settings", "n_threads"),
    [
        (ArenaSize.QUARTER, {}, 7),
        (ArenaSize.QUARTER, {"flash_attn": True}, 8),  # whose sums depend on the number
        (ArenaSize.QUARTER, {"n_threads": 2}, 2),
        (ArenaSize.ALL, {}, 8),
    ],
)
def test_reads_get_a_core(
    tiny_model: ModelFactory,
    monkeypatch: pytest.MonkeyPatch,
    arena: ArenaSize,
    settings: dict[str, Any],
    n_threads: int,
) -> None:
    monkeypatch.setattr(cores, "n_usable_cores", lambda: 8)
    path = tiny_model("qwen3moe")
    with closing(hobbit_py.Llama(path, expert_memory=arena_bytes(path, arena), n_ctx=64, **settings)) as llama:
        assert llama.n_threads == llama_cpp.llama_n_threads(llama.ctx) == n_threads
        assert llama_cpp.llama_n_threads_batch(llama.ctx) == n_threads
        llama.eval([1, 2, 3])
