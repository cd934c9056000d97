"""Reading ahead: never a different token, guesses as good as the papers', and what is learned is kept."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import N_CTX, ModelFactory, StockReference, eval_logits, make_prompt

import hobbit_py
from hobbit_py.bundled import bundled_model, sample_text
from hobbit_py.policies import HORIZONS, Prefetch
from hobbit_py.predict import load_traces, traces_path
from hobbit_py.train_predictor import train_predictor

# Experts are 5 KB here; an eighth of them fit, and four times a token's, which reading ahead asks for.
MODEL = {"n_layer": 4, "n_expert": 64, "n_expert_used": 2}
PROMPT = make_prompt(12)
DECODE = make_prompt(24, seed=3)


def load(path: Path, **options: Any) -> hobbit_py.Llama:
    keywords = {
        "n_ctx": N_CTX,
        "n_threads": 1,
        "n_threads_batch": 1,
        "precision": "exact",
        "logits_all": True,
        **options,
    }
    return hobbit_py.Llama(path, **keywords)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("predictor", ["stacked-gates", "previous-token", "request-trace"])
def test_results_do_not_change(
    tiny_model: ModelFactory, stock_reference: StockReference, predictor: str, horizon: str
) -> None:
    path = tiny_model("qwen3moe", **MODEL)
    with closing(load(path, expert_memory="256KiB", prefetch=Prefetch(predictor, horizon, 3))) as model:
        logits = eval_logits(model, PROMPT, DECODE)
        stats = model.stats()
        model._engine.check_invariants()
    traces_path(path).unlink(missing_ok=True)
    assert np.array_equal(logits, stock_reference(path, PROMPT, DECODE))
    assert stats.n_misses_hi > 0
    judged = stats.prefetch_useful_bytes + stats.prefetch_late_bytes + stats.prefetch_wasted_bytes
    assert judged + stats.prefetch_cancelled_bytes <= stats.prefetched_bytes
    assert (stats.prefetched_bytes > 0) == (stats.n_prefetched > 0)


# A softmax, a sigmoid with a bias on the selection, a bias on the router, weights that are a softmax of the selected.
@pytest.mark.parametrize("arch", ["qwen3moe", "deepseek2", "glm4moe", "gpt-oss"])
def test_gates_are_found_in(tiny_model: ModelFactory, arch: str) -> None:
    path = tiny_model(arch)
    with closing(load(path, expert_memory="1MiB", prefetch=Prefetch("stacked-gates", "fixed", 1))) as model:
        eval_logits(model, PROMPT, DECODE)
        recall = model.prediction_recall()
    assert recall[0] > 0


def test_recall_of_stacked_gates() -> None:
    """At least what was measured when the bundled model was trained: 0.838, 0.779 and 0.725, on other text."""
    settings = Prefetch("stacked-gates", "fixed", 3)
    with closing(load(bundled_model(), expert_memory="16MiB", prefetch=settings, n_ctx=512, n_batch=8)) as model:
        tokens = model.tokenize(sample_text().read_bytes())[:512]
        model.eval(tokens)
        recall = model.prediction_recall()
    assert recall[0] >= 0.80
    assert recall[1] >= 0.75
    assert recall[2] >= 0.69


def test_requests_are_remembered(tmp_path: Path, tiny_model: ModelFactory) -> None:
    path = Path(shutil.copy(tiny_model("qwen3moe", **MODEL), tmp_path / "model.gguf"))
    recalls = []
    for _ in range(2):
        with closing(load(path, expert_memory="256KiB", prefetch=Prefetch("request-trace", "fixed", 1))) as model:
            eval_logits(model, PROMPT, DECODE)
            recalls.append(model.prediction_recall()[0])
        assert traces_path(path).is_file()
    assert recalls[1] > recalls[0]  # the same request came before
    traces_path(path).unlink()
    with closing(load(path, expert_memory="256KiB", prefetch="request-trace")) as model:
        for _ in range(3):
            model.reset()
            model.eval(DECODE[:4])  # no prompt, but a request all the same
    prompts, decodes = load_traces([str(path)], MODEL["n_layer"] * MODEL["n_expert"])
    assert (len(prompts), len(decodes)) == (0, 3)
    traces_path(path).write_bytes(b"damaged")
    with closing(load(path, expert_memory="256KiB", prefetch="request-trace")) as model:
        eval_logits(model, PROMPT, DECODE)


def test_the_hybrid_is_trained_once(tmp_path: Path) -> None:
    path = Path(shutil.copy(bundled_model(), tmp_path / "model.gguf"))
    with pytest.raises(hobbit_py.UsageError, match=r"was not trained for .*model\.gguf"):
        load(path, expert_memory="8MiB", prefetch="hybrid")
    trained = train_predictor(path, sample_text().read_text(encoding="utf-8"), n_tokens=1536)
    assert trained.path.is_file()
    # What is further ahead leaves more to correct.
    assert trained.recall_hybrid[2] > trained.recall_gates[2]
    settings = Prefetch("hybrid", "fixed", 3)
    with closing(load(path, expert_memory="8MiB", prefetch=settings, n_ctx=512, n_batch=1)) as model:
        model.eval(model.tokenize(sample_text().read_bytes())[:128])
        recall = model.prediction_recall()
    assert recall[2] > trained.recall_gates[2]  # text it was trained on


def test_unknown_names() -> None:
    with pytest.raises(hobbit_py.UsageError, match="predictor is 'oracle' and must be one of stacked-gates"):
        hobbit_py.Llama(bundled_model(), prefetch="oracle")
    with pytest.raises(hobbit_py.UsageError, match="horizon is 'endless' and must be one of fixed"):
        Prefetch(horizon="endless")
