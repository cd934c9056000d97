"""Hi copies of their own, in mixed mode: another file's experts stand in for the model's."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_tuning import TUNING
from support import N_CTX, ArenaSize, Logits, ModelFactory, StockReference, arena_bytes, eval_logits, make_prompt

import hobbit_py
from hobbit_py import cli
from hobbit_py.cli.common import ModelOptions
from hobbit_py.errors import ModelFileError, UsageError
from hobbit_py.mixed import choose_copies
from hobbit_py.policies import AlwaysHigh, AlwaysLow, PrecisionPolicy, WeightThresholds
from hobbit_py.tune import save_tuning

COMMANDS = (
    ("chat",),
    ("generate", "--prompt", "x"),
    ("serve",),
    ("bench",),
    ("tune",),
    ("perplexity", "--text", __file__),
)
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


@pytest.fixture
def model(tiny_model: ModelFactory, tmp_path: Path) -> Path:
    """A model with copies of three sizes beside it, all coarser than its own experts."""
    path = tmp_path / "model.gguf"
    path.symlink_to(tiny_model("qwen3moe"))
    for quant in ("Q5_1", HI_TYPE, LO_TYPE):
        copies_of(path, quant).symlink_to(tiny_model("qwen3moe", experts_quant=quant))
    return path


def copies_of(model: Path, quant: str) -> Path:
    return model.with_name(f"model.lo-{quant}.gguf")


def test_without_a_name_the_largest_lo_copy_that_is_coarser(model: Path) -> None:
    assert choose_copies(model, None, copies_of(model, "Q5_1"), "auto") == tuple(
        copies_of(model, quant) for quant in (HI_TYPE, "Q5_1")
    )
    assert choose_copies(model, None, copies_of(model, HI_TYPE), "mixed")[0] == copies_of(model, LO_TYPE)
    assert choose_copies(model, None, model, "auto")[0] == copies_of(model, "Q5_1")
    with closing(hobbit_py.Llama(model, hi=copies_of(model, HI_TYPE), expert_memory="1MiB", n_ctx=64)) as llama:
        assert llama.lo_path == str(copies_of(model, LO_TYPE))


def test_without_a_name_the_lo_copy_that_was_tuned_beside_them(model: Path) -> None:
    hi, lo = copies_of(model, "Q5_1"), copies_of(model, LO_TYPE)
    save_tuning([model], lo, TUNING, hi_path=hi)
    assert choose_copies(model, None, hi, "auto") == (lo, hi)
    assert choose_copies(model, None, model, "auto") == (copies_of(model, "Q5_1"), model)
    assert ModelOptions(model=model, hi=hi).untuned().lo == copies_of(model, HI_TYPE)


@pytest.mark.parametrize("are_there_others", [True, False])
def test_without_a_coarser_lo_copy(
    model: Path, tiny_model: ModelFactory, are_there_others: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hi = tiny_model("qwen3moe", experts_quant=HI_TYPE)
    copies_of(model, LO_TYPE).unlink()
    if not are_there_others:
        copies_of(model, "Q5_1").unlink()
        copies_of(model, HI_TYPE).unlink()
    said = (
        f"The hi copies {str(hi)!r} need a coarser lo copy and there is none beside {str(model)!r}; name one with lo "
        "(--lo), or make one with 'hobbit pack'."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        hobbit_py.Llama(model, hi=hi)
    for command, *needed in COMMANDS:
        assert cli.main([command, str(model), *needed, "--hi", str(hi)]) == 2
        assert capsys.readouterr().err == f"hobbit: {said}\n", command


def test_that_are_missing_where_no_lo_copy_is_named(model: Path) -> None:
    with pytest.raises(ModelFileError, match=r"missing\.gguf' does not exist"):
        hobbit_py.Llama(model, hi=model.with_name("missing.gguf"))


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
