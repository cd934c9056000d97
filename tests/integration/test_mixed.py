"""Mixed precision: where it must equal exact mode or stock llama.cpp, what skipping does, policies of one's own."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama as StockLlama
from sample_tuning import TUNING
from support import (
    N_CTX,
    ArenaSize,
    Logits,
    ModelFactory,
    StockReference,
    arena_bytes,
    eval_logits,
    make_prompt,
    stock_llama,
)
from tiny_models.families import FAMILIES

import hobbit_py
from hobbit_py.errors import HobbitError, ModelFileError, UsageError
from hobbit_py.policies import (
    HI,
    LO,
    SKIP,
    AlwaysHigh,
    AlwaysLow,
    HobbitThresholds,
    PrecisionPolicy,
    Substitute,
    WeightThresholds,
)
from hobbit_py.tune import save_tuning

ARCHS = ["llama", "qwen3moe", "olmoe", "deepseek2", "gpt-oss", "deepseek2-fused"]
HI_TYPE, LO_TYPE = "Q8_0", "Q4_0"
DECODE = make_prompt(8, seed=1)


def mixed_llama(path: Path, expert_memory: int, **keywords: Any) -> hobbit_py.Llama:
    return hobbit_py.Llama(
        path, expert_memory=expert_memory, n_ctx=N_CTX, n_threads=1, n_threads_batch=1, logits_all=True, **keywords
    )


@pytest.fixture
def pair(tiny_model: ModelFactory, tmp_path: Path) -> tuple[Path, Path]:
    """A model and, beside it under the name that is found, a lo copy."""
    return link_pair(tiny_model, tmp_path, "qwen3moe")


def link_pair(tiny_model: ModelFactory, folder: Path, arch: str) -> tuple[Path, Path]:
    hi, lo = folder / "model.gguf", folder / f"model.lo-{LO_TYPE}.gguf"
    hi.symlink_to(tiny_model(arch))
    lo.symlink_to(tiny_model(arch, experts_quant=LO_TYPE))
    return hi, lo


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("arch", ARCHS)
def test_t1_of_one_equals_exact(
    tiny_model: ModelFactory, stock_reference: StockReference, tmp_path: Path, arch: str, arena: ArenaSize
) -> None:
    hi, lo = link_pair(tiny_model, tmp_path, arch)
    prompt = make_prompt(64)
    with closing(mixed_llama(hi, arena_bytes(hi, arena), lo=lo, policy=HobbitThresholds(1.0, 1.0))) as model:
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
    assert np.array_equal(logits, stock_reference(tiny_model(arch), prompt, DECODE))
    assert stats.precision == "mixed"
    assert stats.read_bytes_lo == 0


def test_exact_with_a_lo_copy_present_equals_stock(
    tiny_model: ModelFactory, stock_reference: StockReference, pair: tuple[Path, Path]
) -> None:
    hi, lo = pair
    prompt = make_prompt(64)
    for given in (None, lo):
        memory = arena_bytes(hi, ArenaSize.QUARTER)
        with closing(mixed_llama(hi, memory, precision="exact", lo=given)) as model:
            logits = eval_logits(model, prompt, DECODE)
            assert model.stats().precision == "exact"
            assert model.note is None
        assert np.array_equal(logits, stock_reference(tiny_model("qwen3moe"), prompt, DECODE))


@pytest.mark.parametrize("n_prompt", [1, 64])
@pytest.mark.parametrize("arch", ARCHS)
def test_all_low_equals_stock_with_experts_of_the_lo_type(
    tiny_model: ModelFactory, stock_reference: StockReference, arch: str, n_prompt: int
) -> None:
    """The writer's weights do not depend on types: the lo file is the hi one with its experts in the lo type."""
    hi, lo = tiny_model(arch), tiny_model(arch, experts_quant=LO_TYPE)
    prompt = make_prompt(n_prompt)
    memory = arena_bytes(hi, ArenaSize.ALL)
    with closing(mixed_llama(hi, memory, lo=lo, lo_share=1.0, policy=AlwaysLow())) as model:
        logits = eval_logits(model, prompt, DECODE)
        stats = model.stats()
    expected = stock_reference(lo, prompt, DECODE)
    assert np.array_equal(logits, expected)
    assert not np.array_equal(expected, stock_reference(hi, prompt, DECODE))
    assert stats.read_bytes_hi == stats.n_used_hi == 0
    assert stats.n_used_lo > 0


class BestOnly:
    """Every token's best expert in hi, none of the others, wherever they are."""

    def choose(self, layer: int, gate_weights: Any, resident: Any) -> list[int]:
        return [HI] + [SKIP] * (len(gate_weights) - 1)


def one_by_one(model: StockLlama, tokens: Sequence[int]) -> Logits:
    """Single tokens: in a batch an expert that one token wants serves all."""
    return eval_logits(model, tokens[:1], tokens[1:])


# With weights normalised over the selected experts, one expert alone has weight 1; without, its own probability.
@pytest.mark.parametrize(("arch", "skip_renorm"), [("qwen3moe", True), ("olmoe", False)])
def test_skipping_all_but_the_best_equals_a_router_that_selects_one(
    tiny_model: ModelFactory, arch: str, skip_renorm: bool
) -> None:
    hi, lo = tiny_model(arch), tiny_model(arch, experts_quant=LO_TYPE)
    top1 = tiny_model(arch, n_expert_used=1)  # the same weights
    tokens = make_prompt(16)
    with stock_llama(top1) as stock:
        expected = one_by_one(stock, tokens)
    found = {}
    for renorm in (False, True):
        memory = arena_bytes(hi, ArenaSize.QUARTER)
        with closing(mixed_llama(hi, memory, lo=lo, policy=BestOnly(), skip_renorm=renorm)) as model:
            found[renorm] = one_by_one(model, tokens)
            stats = model.stats()
        assert stats.n_skipped > 0
        assert stats.n_used_lo == 0
        assert 0 < stats.dropped_mass < 1
    scale = np.abs(expected).max()
    assert np.abs(found[skip_renorm] - expected).max() < 1e-3 * scale
    assert np.abs(found[not skip_renorm] - expected).max() > 1e-2 * scale


def test_thresholds_mix_under_pressure(tiny_model: ModelFactory) -> None:
    """With room for a quarter of the experts all three fates occur, and lo copies are read instead of hi ones."""
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant=LO_TYPE)
    tokens = make_prompt(64)
    memory = arena_bytes(hi, ArenaSize.QUARTER)
    with closing(mixed_llama(hi, memory, precision="exact")) as model:
        one_by_one(model, tokens)
        exact = model.stats()
    with closing(mixed_llama(hi, memory, lo=lo, policy=HobbitThresholds(0.0, 0.8))) as model:
        one_by_one(model, tokens)
        mixed = model.stats()
    assert min(mixed.n_used_hi, mixed.n_used_lo, mixed.n_skipped) > 0
    assert mixed.read_bytes_lo > 0
    assert mixed.read_bytes < exact.read_bytes
    assert mixed.resident_bytes_hi + mixed.resident_bytes_lo <= memory


def test_what_is_resident_in_lo_is_not_waited_for(tiny_model: ModelFactory) -> None:
    """Below wait_above lo copies serve, and hi copies take over as the drive finds the time."""
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant=LO_TYPE)
    tokens = make_prompt(64)
    memory = arena_bytes(hi, ArenaSize.ALL)
    n_waited = {}
    for wait_above in (0.0, 2.0):
        policy = WeightThresholds(hi_above=1e-6, wait_above=wait_above)
        with closing(mixed_llama(hi, memory, lo=lo, lo_share=0.5, policy=policy, prefetch=False)) as model:
            model.set_policy(AlwaysLow())
            one_by_one(model, tokens)
            model.set_policy(policy)
            before = model.stats()
            one_by_one(model, tokens)
            stats = model.stats().since(before)
        n_waited[wait_above] = stats.n_misses_hi
        assert (stats.n_used_lo > 0) == (stats.n_upgraded > 0) == (wait_above > 0)
        assert stats.n_used_hi > 0
    assert n_waited[2.0] < n_waited[0.0]


class Recording:
    """A policy of one's own that keeps what it was asked and answers HI."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Any, Any]] = []

    def choose(self, layer: int, gate_weights: Any, resident: Any) -> list[int]:
        self.asked.append((layer, gate_weights, resident))
        return [HI] * len(gate_weights)


def test_policy_of_ones_own_runs_live(tiny_model: ModelFactory, stock_reference: StockReference) -> None:
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant=LO_TYPE)
    policy = Recording()
    prompt = make_prompt(7)
    memory = arena_bytes(hi, ArenaSize.QUARTER)
    with closing(mixed_llama(hi, memory, lo=lo, policy=policy, lo_share=0.25)) as model:
        logits = eval_logits(model, prompt, DECODE)
    # Once for a token and layer; reading ahead may ask once more, with guessed weights.
    n_asked = Counter(layer for layer, _, _ in policy.asked)
    assert len(n_asked) == FAMILIES["qwen3moe"].n_layer
    n_tokens = len(prompt) + len(DECODE)
    assert all(n_tokens <= n <= 2 * n_tokens for n in n_asked.values())
    assert np.array_equal(logits, stock_reference(hi, prompt, DECODE))
    for _, weights, resident in policy.asked:
        assert weights.dtype == np.float32
        assert (np.diff(weights) <= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        assert set(resident.tolist()) <= {0, LO, HI}
    assert any(resident.any() for _, _, resident in policy.asked)


def test_native_policy_and_its_python_form_give_the_same_logits(tiny_model: ModelFactory) -> None:
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant=LO_TYPE)
    native = HobbitThresholds(0.3, 0.9)

    class InPython:
        def choose(self, layer: int, gate_weights: Any, resident: Any) -> Any:
            return native.choose(layer, gate_weights, resident)

    runs = []
    for policy in (native, InPython()):
        # What is read ahead depends on time, and what is resident decides.
        memory = arena_bytes(hi, ArenaSize.QUARTER)
        with closing(mixed_llama(hi, memory, lo=lo, policy=policy, prefetch=False)) as model:
            runs.append((eval_logits(model, make_prompt(1), make_prompt(48)), model.stats().n_used_lo))
    assert np.array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] > 0


def test_exception_of_a_policy_ends_the_request_and_no_more(
    tiny_model: ModelFactory, stock_reference: StockReference
) -> None:
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant=LO_TYPE)

    class Broken:
        def choose(self, layer: int, gate_weights: Any, resident: Any) -> list[int]:
            raise ValueError(f"no idea about layer {layer}")

    prompt = make_prompt(7)
    with closing(mixed_llama(hi, arena_bytes(hi, ArenaSize.QUARTER), lo=lo, policy=Broken())) as model:
        for _ in range(2):
            with pytest.raises(HobbitError, match="precision policy failed: ValueError: no idea about layer 0"):
                eval_logits(model, prompt)
        model.set_policy(AlwaysHigh())
        assert np.array_equal(eval_logits(model, prompt, DECODE), stock_reference(hi, prompt, DECODE))


def test_policy_without_choose_is_refused(tiny_model: ModelFactory) -> None:
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant=LO_TYPE)
    policy: PrecisionPolicy = object()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="choose"):
        mixed_llama(hi, 1 << 20, lo=lo, policy=policy)


def test_lo_copy_beside_the_model_makes_mixed_the_default(pair: tuple[Path, Path]) -> None:
    hi, lo = pair
    with closing(mixed_llama(hi, arena_bytes(hi, ArenaSize.QUARTER))) as model:
        eval_logits(model, make_prompt(1), make_prompt(32))
        assert model.stats().precision == "mixed"
        assert model.stats().read_bytes_lo > 0
        assert model.note == (
            f"Mixed precision with lo copies from {lo.name}; its loss was not measured yet, 'hobbit tune' does."
        )


def test_what_tune_stored_is_used(pair: tuple[Path, Path]) -> None:
    hi, lo = pair
    exact = replace(TUNING, hi_above=0.0, skip_below=0.0, wait_above=0.0, lo_share=0.25)
    save_tuning([hi], lo, exact)  # T1 of 1: nothing is ever read in lo
    with closing(mixed_llama(hi, arena_bytes(hi, ArenaSize.QUARTER))) as model:
        eval_logits(model, make_prompt(1), make_prompt(32))
        assert model.note == (
            f"Mixed precision with lo copies from {lo.name}; loss 0.4% perplexity, measured by hobbit tune."
        )
        assert model.stats().read_bytes_lo == 0


def rerouted(path: Path, **keywords: Any) -> tuple[int, str]:
    """Experts that gave way over some tokens, and the note."""
    with closing(mixed_llama(path, arena_bytes(path, ArenaSize.QUARTER), prefetch=False, **keywords)) as model:
        eval_logits(model, make_prompt(1), make_prompt(48))
        return model.stats().n_rerouted, model.note or ""


def test_tuned_rerouting_is_for_mixed_runs_that_leave_it_open(tiny_model: ModelFactory, tmp_path: Path) -> None:
    shape = {"n_expert": 16, "n_expert_used": 4}
    hi, lo = tmp_path / "model.gguf", tmp_path / f"model.lo-{LO_TYPE}.gguf"
    hi.symlink_to(tiny_model("qwen3moe", **shape))
    lo.symlink_to(tiny_model("qwen3moe", experts_quant=LO_TYPE, **shape))
    save_tuning([hi], lo, TUNING)
    assert rerouted(hi)[0] == 0
    save_tuning([hi], lo, replace(TUNING, reroute_below=0.8))
    n_rerouted, note = rerouted(hi)
    assert n_rerouted > 0
    assert "missing experts rerouted to resident ones; loss 0.4% perplexity, measured by hobbit tune" in note
    assert rerouted(hi, precision="exact") == (0, "")
    assert rerouted(hi, preset="default")[0] == 0
    assert rerouted(hi, policy=AlwaysHigh())[0] == 0
    assert rerouted(hi, lo_share=0.5)[0] == 0
    assert rerouted(hi, router_filter=Substitute(0.0))[0] == 0


def test_everything_fits_in_hi(pair: tuple[Path, Path], stock_reference: StockReference) -> None:
    """Memory for all experts is not spent on lo copies: no expert is read twice."""
    hi, _ = pair
    with closing(mixed_llama(hi, 2 * arena_bytes(hi, ArenaSize.ALL), policy=AlwaysHigh())) as model:
        logits = eval_logits(model, make_prompt(64), DECODE)
        assert model.stats().n_evictions == 0
    assert np.array_equal(logits, stock_reference(hi.resolve(), make_prompt(64), DECODE))


def test_mixed_without_a_lo_copy_is_refused(tiny_model: ModelFactory) -> None:
    with pytest.raises(UsageError, match="hobbit pack"):
        mixed_llama(tiny_model("qwen3moe"), 1 << 20, precision="mixed")


def test_lo_copy_of_another_shape_is_refused(tiny_model: ModelFactory) -> None:
    other = tiny_model("qwen3moe", n_layer=1)
    with pytest.raises(ModelFileError, match="is not a lo copy of"):
        mixed_llama(tiny_model("qwen3moe"), 1 << 20, lo=other)
