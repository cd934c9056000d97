"""Exact mode computes the logits of stock llama.cpp, bit for bit, whatever is resident."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from support import (
    N_CTX,
    ArenaSize,
    ModelFactory,
    StockReference,
    arena_bytes,
    assert_identical,
    eval_logits,
    expert_bytes_by_layer,
    expert_counts,
    make_prompt,
)
from tiny_models import ARCHITECTURES, QUANT_TYPES, VARIANTS, split_model

import hobbit_py

DECODE = make_prompt(8, seed=1)
MOE_MODELS = [name for name in ARCHITECTURES + VARIANTS if name != "llama-dense"]
# Two layers compete for an arena of two experts.
QUANT_MODEL = {"n_layer": 2, "n_expert": 4, "n_expert_used": 2}


def hobbit_llama(
    path: Path,
    expert_memory: int,
    *,
    n_threads: int = 1,
    n_batch: int = 512,
    n_ubatch: int = 512,
) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        str(path),
        expert_memory=expert_memory,
        precision="exact",
        n_ctx=N_CTX,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        logits_all=True,
    )


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("n_prompt", [1, 7, 64, 600])
@pytest.mark.parametrize("arch", MOE_MODELS)
def test_architectures(
    tiny_model: ModelFactory, stock_reference: StockReference, arch: str, n_prompt: int, arena: ArenaSize
) -> None:
    path = tiny_model(arch)
    prompt = make_prompt(n_prompt)
    expert_memory = arena_bytes(path, arena)
    with closing(hobbit_llama(path, expert_memory)) as model:
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
    assert_identical(logits, stock_reference(path, prompt, DECODE))

    # The arena was what the case is about: experts were read through it, and it kept its bound.
    assert stats.precision == "exact"
    assert stats.read_bytes_hi > 0
    assert stats.resident_bytes_hi <= expert_memory
    if arena is ArenaSize.ALL:
        assert stats.n_evictions == 0
        # Nothing is read twice.
        assert stats.read_bytes_hi <= expert_counts(path)[0] * sum(expert_bytes_by_layer(path).values())


@pytest.mark.parametrize("quant", QUANT_TYPES)
def test_quantisation_types(tiny_model: ModelFactory, stock_reference: StockReference, quant: str) -> None:
    path = tiny_model("qwen3moe", experts_quant=quant, **QUANT_MODEL)
    prompt = make_prompt(64)
    with closing(hobbit_llama(path, arena_bytes(path, ArenaSize.QUARTER))) as model:
        assert_identical(eval_logits(model, prompt, DECODE), stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("arena", ArenaSize)
def test_types_that_differ_by_layer(
    tiny_model: ModelFactory, stock_reference: StockReference, arena: ArenaSize
) -> None:
    """Layers of different expert sizes do not share slots."""
    path = tiny_model("qwen3moe", n_layer=3, experts_quant=("Q4_K", "Q4_K", "Q5_0"), down_quant=("Q6_K", "Q4_K", "F16"))
    assert len(set(expert_bytes_by_layer(path).values())) == 3
    prompt = make_prompt(64)
    with closing(hobbit_llama(path, arena_bytes(path, arena))) as model:
        assert_identical(eval_logits(model, prompt, DECODE), stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("arch", ["qwen3moe", "deepseek2-fused"])
def test_split_files(
    tiny_model: ModelFactory, stock_reference: StockReference, tmp_path: Path, arch: str, arena: ArenaSize
) -> None:
    whole = tiny_model(arch)
    link = tmp_path / "model.gguf"
    link.symlink_to(whole)
    first_part = split_model(link, 3)[0]
    prompt = make_prompt(64)
    with closing(hobbit_llama(first_part, arena_bytes(whole, arena))) as model:
        assert_identical(eval_logits(model, prompt, DECODE), stock_reference(whole, prompt, DECODE))


@pytest.mark.parametrize("arch", MOE_MODELS)
def test_the_number_of_threads_does_not_matter(
    tiny_model: ModelFactory, stock_reference: StockReference, arch: str
) -> None:
    """It changes while experts are waited for (csrc/moe/thread_share.h): the tokens must not."""
    path = tiny_model(arch)
    prompt = make_prompt(64)
    with closing(hobbit_llama(path, arena_bytes(path, ArenaSize.QUARTER), n_threads=3)) as model:
        assert model._engine is not None
        model._engine.set_spare_threads(1)
        logits = eval_logits(model, prompt, DECODE)
    assert_identical(logits, stock_reference(path, prompt, DECODE))


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_and_micro_batches(
    tiny_model: ModelFactory, stock_reference: StockReference, n_threads: int, arena: ArenaSize
) -> None:
    """A prompt in four micro-batches, the last one shorter."""
    path = tiny_model("qwen3moe")
    prompt = make_prompt(100)
    options = {"n_threads": n_threads, "n_ubatch": 32}
    with closing(hobbit_llama(path, arena_bytes(path, arena), **options)) as model:
        logits = eval_logits(model, prompt, DECODE)
    assert_identical(logits, stock_reference(path, prompt, DECODE, **options))


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("arch", ["qwen3moe", "gpt-oss", "lfm2moe"])
def test_later_sequences(
    tiny_model: ModelFactory, stock_reference: StockReference, arch: str, arena: ArenaSize
) -> None:
    """One model, several sequences: what earlier ones left resident does not show."""
    path = tiny_model(arch)
    prompts: list[Sequence[int]] = [make_prompt(n, seed=2) for n in (64, 1, 600, 7)]
    with closing(hobbit_llama(path, arena_bytes(path, arena), n_threads=2)) as model:
        for prompt in [*prompts, *prompts]:
            assert_identical(eval_logits(model, prompt, DECODE), stock_reference(path, prompt, DECODE, n_threads=2))


def test_dense_model(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    """A model without experts runs as it does in stock llama.cpp."""
    path = tiny_model("llama-dense")
    prompt = make_prompt(64)
    with closing(hobbit_llama(path, 1 << 20)) as model:
        assert_identical(eval_logits(model, prompt, DECODE), stock_reference(path, prompt, DECODE))
        assert model.stats().precision == "dense"
