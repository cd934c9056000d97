"""A second run begins with the experts of the first, within the same budget and with the same result."""

import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import ArenaSize, arena_bytes, eval_logits, make_prompt
from tiny_models import write_model

import hobbit_py

PROMPT = make_prompt(12)
DECODE = make_prompt(24, seed=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.gguf", "qwen3moe")


def open_model(path: Path, *, warm_start: bool = True) -> hobbit_py.Llama:
    memory = arena_bytes(path, ArenaSize.QUARTER)
    return hobbit_py.Llama(path, expert_memory=memory, n_ctx=256, logits_all=True, warm_start=warm_start)


def wait_until_read(llama: hobbit_py.Llama) -> None:
    before = -1
    while (n_reads := llama.stats().n_reads) != before or any(1 in layer for layer in llama.residency()):
        before = n_reads
        time.sleep(0.05)


def test_the_hot_set_returns(model: Path) -> None:
    with closing(open_model(model)) as first:
        logits = eval_logits(first, PROMPT, DECODE)
        hot = first.residency()
    assert model.with_name("model.hot.json").is_file()
    with closing(open_model(model)) as second:
        wait_until_read(second)
        stats = second.stats()
        assert second.residency() == hot
        assert stats.resident_bytes_hi <= stats.expert_memory_bytes
        assert (stats.n_tokens, stats.n_evictions, stats.n_prefetched) == (0, 0, 0)
        assert np.array_equal(eval_logits(second, PROMPT, DECODE), logits)


def test_a_request_does_not_wait_for_it(model: Path) -> None:
    with closing(open_model(model)) as first:
        logits = eval_logits(first, PROMPT, DECODE)
    with closing(open_model(model)) as second:
        assert np.array_equal(eval_logits(second, PROMPT, DECODE), logits)


def test_it_is_off_unless_asked_for(model: Path) -> None:
    with closing(open_model(model, warm_start=False)) as first:
        eval_logits(first, PROMPT)
    assert not model.with_name("model.hot.json").exists()
    with closing(open_model(model)) as second:
        eval_logits(second, PROMPT)
    with closing(open_model(model, warm_start=False)) as third:
        assert third.stats().n_reads == 0


def test_a_run_that_computed_nothing_keeps_what_was_remembered(model: Path) -> None:
    with closing(open_model(model)) as first:
        eval_logits(first, PROMPT, DECODE)
    remembered = model.with_name("model.hot.json").read_bytes()
    open_model(model).close()
    assert model.with_name("model.hot.json").read_bytes() == remembered


def test_experts_that_the_model_lacks_are_left_out(model: Path) -> None:
    with closing(open_model(model)) as first:
        eval_logits(first, PROMPT)
    hot = model.with_name("model.hot.json")
    text = hot.read_text()
    hot.write_text(text.replace('"copies":[', '"copies":[[900,0,0],[0,9999,0],[0,0,1],'))
    with closing(open_model(model)) as second:
        wait_until_read(second)
        assert any(3 in layer for layer in second.residency())
