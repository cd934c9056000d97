"""Hi copies of their own, in mixed mode: another file's experts stand in for the model's."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import N_CTX, ArenaSize, Logits, ModelFactory, StockReference, arena_bytes, eval_logits, make_prompt

import hobbit_py
from hobbit_py.errors import ModelFileError, UsageError
from hobbit_py.policies import AlwaysHigh, AlwaysLow, PrecisionPolicy, WeightThresholds

HI_TYPE, LO_TYPE = "Q5_0", "Q4_0"  # the model's experts are of Q8_0
PROMPT, DECODE = make_prompt(64), make_prompt(8, seed=1)


def run(path: Path, arena: ArenaSize, policy: PrecisionPolicy, **keywords: Any) -> tuple[Logits, hobbit_py.Stats]:
    with closing(
        hobbit_py.Llama(
            path,
            expert_memory=arena_bytes(path, arena),
            policy=policy,
            n_ctx=N_CTX,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            **keywords,
        )
    ) as model:
        return eval_logits(model, PROMPT, DECODE), model.stats()


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("arch", ["qwen3moe", "gpt-oss", "deepseek2-fused"])
def test_always_high_equals_stock_with_experts_of_the_hi_copies(
    tiny_model: ModelFactory, stock_reference: StockReference, arch: str, arena: ArenaSize
) -> None:
    path, hi, lo = (tiny_model(arch, **types) for types in ({}, {"experts_quant": HI_TYPE}, {"experts_quant": LO_TYPE}))
    logits, stats = run(path, arena, AlwaysHigh(), hi=hi, lo=lo, lo_share=0.0)
    expected = stock_reference(hi, PROMPT, DECODE)
    assert np.array_equal(logits, expected)
    assert not np.array_equal(expected, stock_reference(path, PROMPT, DECODE))
    assert stats.read_bytes_hi > 0
    assert stats.read_bytes_lo == 0


def test_always_low_leaves_them_alone(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    path, hi, lo = (tiny_model("qwen3moe", **t) for t in ({}, {"experts_quant": HI_TYPE}, {"experts_quant": LO_TYPE}))
    logits, stats = run(path, ArenaSize.QUARTER, AlwaysLow(), hi=hi, lo=lo, lo_share=1.0)
    assert np.array_equal(logits, stock_reference(lo, PROMPT, DECODE))
    assert stats.read_bytes_hi == 0


def test_thresholds_read_less_than_with_the_models_own(tiny_model: ModelFactory) -> None:
    path, hi, lo = (tiny_model("qwen3moe", **t) for t in ({}, {"experts_quant": HI_TYPE}, {"experts_quant": LO_TYPE}))
    policy = WeightThresholds(0.3)
    _, own = run(path, ArenaSize.QUARTER, policy, lo=lo, lo_share=0.3, prefetch=False)
    _, finer = run(path, ArenaSize.QUARTER, policy, hi=hi, lo=lo, lo_share=0.3, prefetch=False)
    assert finer.n_used_hi > 0 < finer.n_used_lo
    assert finer.read_bytes_hi < own.read_bytes_hi
    assert finer.read_bytes < own.read_bytes


def test_exact_mode_uses_the_model_itself(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    path, hi, lo = (tiny_model("qwen3moe", **t) for t in ({}, {"experts_quant": HI_TYPE}, {"experts_quant": LO_TYPE}))
    logits, stats = run(path, ArenaSize.QUARTER, AlwaysHigh(), precision="exact", hi=hi, lo=lo)
    assert np.array_equal(logits, stock_reference(path, PROMPT, DECODE))
    assert stats.precision == "exact"


def test_without_a_lo_copy(tiny_model: ModelFactory, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.symlink_to(tiny_model("qwen3moe"))
    with pytest.raises(UsageError, match=r"need a lo copy beside them and there is none; make one with 'hobbit pack'"):
        hobbit_py.Llama(path, hi=tiny_model("qwen3moe", experts_quant=HI_TYPE))


def test_exchanged_with_the_lo_copy(tiny_model: ModelFactory) -> None:
    hi, lo = tiny_model("qwen3moe", experts_quant=HI_TYPE), tiny_model("qwen3moe", experts_quant=LO_TYPE)
    with pytest.raises(UsageError, match="expected hi to be the larger"):
        hobbit_py.Llama(tiny_model("qwen3moe"), hi=lo, lo=hi)


def test_of_another_model(tiny_model: ModelFactory) -> None:
    lo = tiny_model("qwen3moe", experts_quant=LO_TYPE)
    with pytest.raises(ModelFileError, match="is not a hi copy of"):
        hobbit_py.Llama(tiny_model("qwen3moe"), hi=tiny_model("olmoe", experts_quant=HI_TYPE), lo=lo)


@pytest.mark.parametrize("precision", ["hi", "lo"])
def test_that_do_not_exist(tiny_model: ModelFactory, tmp_path: Path, precision: str) -> None:
    path, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant=LO_TYPE)
    missing = tmp_path / "missing.gguf"
    said = f"{str(missing)!r} does not exist: check the path of the {precision} copies."
    with pytest.raises(ModelFileError, match=re.escape(said)):
        hobbit_py.Llama(path, **{"lo": lo, precision: missing})
