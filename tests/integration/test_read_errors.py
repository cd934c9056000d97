"""The drive fails while a token is computed: the request fails with a sentence, all else goes on."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from support import ArenaSize, ModelFactory, StockReference, arena_bytes, eval_logits, make_prompt, truncated
from tiny_models import split_model

import hobbit_py
from hobbit_py.policies import AlwaysHigh, AlwaysLow

PROMPT = make_prompt(7)
DECODE = make_prompt(4, seed=1)


@pytest.fixture
def model_copy(tiny_model: ModelFactory, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_model("qwen3moe"), tmp_path / "model.gguf"))


def first_expert_offset(path: Path) -> int:
    return min(int(t.data_offset) for t in GGUFReader(path).tensors if "_exps" in t.name)


def load(path: Path, expert_memory: int, *, prefetch: bool = True) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        path, expert_memory=expert_memory, prefetch=prefetch, n_ctx=1024, n_threads=2, logits_all=True
    )


@pytest.mark.parametrize("n_prompt", [1, 7, 600])
@pytest.mark.parametrize("arena", [None, *ArenaSize])
def test_file_ends_too_early(
    tiny_model: ModelFactory,
    stock_reference: StockReference,
    model_copy: Path,
    arena: ArenaSize | None,
    n_prompt: int,
) -> None:
    prompt = make_prompt(n_prompt)
    end = first_expert_offset(model_copy) + 1000
    with closing(load(model_copy, 0 if arena is None else arena_bytes(model_copy, arena))) as model:
        assert model._engine is not None
        with truncated(model_copy, end):
            for _ in range(2):
                with pytest.raises(hobbit_py.ReadError) as caught:
                    eval_logits(model, prompt)
                error = caught.value
                assert error.filename == str(model_copy)
                assert error.errno == 0
                assert "bytes at offset" in str(error)
                assert str(model_copy) in str(error)
                assert "the file ends before" in str(error)
                assert str(error).endswith(".")
                model._engine.check_invariants()
        expected = stock_reference(tiny_model("qwen3moe"), prompt, DECODE, n_threads=2)
        assert np.array_equal(eval_logits(model, prompt, DECODE), expected)
        model._engine.check_invariants()
        assert model.stats().n_retries > 0


def test_what_is_resident_is_still_there(model_copy: Path) -> None:
    with closing(load(model_copy, arena_bytes(model_copy, ArenaSize.ALL), prefetch=False)) as model:
        expected = eval_logits(model, PROMPT, DECODE)
        with truncated(model_copy, first_expert_offset(model_copy)):
            assert np.array_equal(eval_logits(model, PROMPT, DECODE), expected)
            with pytest.raises(hobbit_py.ReadError):
                eval_logits(model, make_prompt(600))
            assert np.array_equal(eval_logits(model, PROMPT, DECODE), expected)


def test_the_failing_part_is_named(tiny_model: ModelFactory, tmp_path: Path) -> None:
    whole = Path(shutil.copy(tiny_model("qwen3moe"), tmp_path / "model.gguf"))
    parts = split_model(whole, 3)
    with closing(load(parts[0], 0)) as model, truncated(parts[1], first_expert_offset(parts[1])):
        with pytest.raises(hobbit_py.ReadError) as caught:
            eval_logits(model, PROMPT)
        assert caught.value.filename == str(parts[1])


def test_generation_ends_and_the_next_one_works(model_copy: Path) -> None:
    """Through llama_cpp's own loop: what it keeps of a failed request must not harm the next."""
    options = {"max_tokens": 6, "temperature": 0.0}
    with closing(load(model_copy, 0)) as model:
        expected = model.create_completion(PROMPT, **options)["choices"]
        with truncated(model_copy, first_expert_offset(model_copy)), pytest.raises(hobbit_py.ReadError):
            model.create_completion(make_prompt(9, seed=5), **options)
        assert model.create_completion(PROMPT, **options)["choices"] == expected


def test_the_lo_copy_goes_on_where_the_policy_lets_it(tiny_model: ModelFactory, model_copy: Path) -> None:
    """A read of the hi copy that fails is not made up for in secret; who wants that says so."""
    lo = tiny_model("qwen3moe", experts_quant="Q4_0")
    with closing(
        hobbit_py.Llama(
            model_copy, expert_memory=0, lo=lo, policy=AlwaysHigh(), n_ctx=1024, n_threads=2, logits_all=True
        )
    ) as model:
        with truncated(model_copy, first_expert_offset(model_copy)):
            with pytest.raises(hobbit_py.ReadError):
                eval_logits(model, PROMPT)
            before = model.stats()
            model.set_policy(AlwaysLow())
            assert np.isfinite(eval_logits(model, PROMPT, DECODE)).all()
            after = model.stats()
            assert after.n_used_lo > before.n_used_lo
            assert after.n_used_hi == before.n_used_hi
        model.set_policy(AlwaysHigh())
        eval_logits(model, PROMPT)


def test_a_file_that_is_overwritten_is_not_read_any_more(tiny_model: ModelFactory, model_copy: Path) -> None:
    """`cp other.gguf model.gguf` writes into the file that is open: bytes of two models must not be mixed."""
    other = tiny_model("qwen3moe", seed=1).read_bytes()
    assert len(other) == model_copy.stat().st_size
    os.utime(model_copy, ns=(0, 0))
    with closing(load(model_copy, arena_bytes(model_copy, ArenaSize.QUARTER))) as model:
        eval_logits(model, PROMPT, DECODE)
        model_copy.write_bytes(other)
        with pytest.raises(hobbit_py.ReadError, match="was written to while it was in use: load the model again"):
            eval_logits(model, make_prompt(600))
    with closing(load(model_copy, 0)) as model:
        eval_logits(model, PROMPT)
