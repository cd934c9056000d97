"""Perplexity is llama.cpp's; distances to exact mode are what they say."""

from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from support import ArenaSize, ModelFactory, arena_bytes, eval_logits, make_prompt, stock_llama

import hobbit_py
from hobbit_py.bundled import bundled_model, sample_text
from hobbit_py.errors import HobbitError, UsageError
from hobbit_py.evaluate import Reference, cut_windows, evaluate, windows_of
from hobbit_py.policies import AlwaysLow, HobbitThresholds

Doubles = npt.NDArray[np.float64]


def log_softmax(logits: npt.NDArray[np.float32]) -> Doubles:
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    result: Doubles = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return result


def stock_perplexity(path: Path, text: bytes, n_ctx: int, n_windows: int, *, chunked: bool) -> float:
    """What llama-perplexity prints: windows of n_ctx tokens, each with the BOS as its first, the second half scored.

    It evaluates a window in one batch; without `chunked` it goes token by token.
    """
    total, count = 0.0, 0
    with stock_llama(path, n_ctx=n_ctx) as model:
        tokens = model.tokenize(text, add_bos=True, special=True)
        for start in range(0, n_windows * n_ctx, n_ctx):
            window = tokens[start : start + n_ctx]
            inputs = [model.token_bos(), *window[1:]]
            n_prompt = n_ctx if chunked else 1
            log_probs = log_softmax(eval_logits(model, inputs[:n_prompt], inputs[n_prompt:]))
            for position in range(n_ctx // 2, n_ctx - 1):
                total -= log_probs[position, window[position + 1]]
                count += 1
    return float(np.exp(total / count))


@pytest.mark.parametrize("chunked", [False, True])
def test_exact_perplexity_is_that_of_llama_cpp(chunked: bool) -> None:
    text = sample_text().read_bytes()
    with closing(
        hobbit_py.Llama(
            bundled_model(), expert_memory="8MiB", precision="exact", n_ctx=128, n_threads=1, logits_all=chunked
        )
    ) as model:
        windows = windows_of(model, text, 128, max_tokens=3 * 128 + 50)
        assert len(windows.inputs) == 3
        evaluation = evaluate(model, windows, chunked=chunked)
    assert evaluation.n_tokens == 3 * 128
    assert len(evaluation.nll) == 3 * 63
    expected = stock_perplexity(bundled_model(), text, n_ctx=128, n_windows=3, chunked=chunked)
    assert evaluation.perplexity == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arena", [ArenaSize.ONE_TOKEN, ArenaSize.ALL])
def test_exact_mode_is_at_no_distance_from_itself(tiny_model: ModelFactory, arena: ArenaSize) -> None:
    path = tiny_model("qwen3moe")
    windows = cut_windows(make_prompt(96), 48)
    with Reference(windows.n_scored, vocabulary(path)) as reference:
        for size in (ArenaSize.QUARTER, arena):
            with closing(exact_llama(path, size)) as model:
                is_first = size is ArenaSize.QUARTER
                evaluation = evaluate(
                    model, windows, against=None if is_first else reference, record=reference if is_first else None
                )
    divergence = evaluation.divergence
    assert divergence is not None
    assert (divergence.loss, divergence.kl_mean, divergence.kl_p99, divergence.top1_agreement) == (0, 0, 0, 1)
    assert evaluation.shares == (1, 0, 0)


def test_distances_are_those_of_the_two_models(tiny_model: ModelFactory) -> None:
    """All experts in lo, everything resident: the distance between two stock models, computed from their logits."""
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant="Q4_0")
    tokens = make_prompt(64)
    windows = cut_windows(tokens, 64)
    with Reference(windows.n_scored, vocabulary(hi)) as reference:
        with closing(exact_llama(hi, ArenaSize.QUARTER)) as model:
            evaluate(model, windows, record=reference)
        with closing(
            hobbit_py.Llama(
                hi,
                lo=lo,
                expert_memory=arena_bytes(hi, ArenaSize.ALL),
                lo_share=1.0,
                policy=AlwaysLow(),
                n_ctx=64,
                n_threads=1,
            )
        ) as model:
            evaluation = evaluate(model, windows, against=reference)

    logs = []
    for path in (hi, lo):
        with stock_llama(path, n_ctx=256) as stock:
            logs.append(log_softmax(eval_logits(stock, tokens[:1], tokens[1:-1]))[32:])
    targets = tokens[33:]
    rows = np.arange(len(targets))
    kl = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1)
    loss = np.exp((logs[0][rows, targets] - logs[1][rows, targets]).mean()) - 1
    agreement = (logs[0].argmax(axis=1) == logs[1].argmax(axis=1)).mean()
    divergence = evaluation.divergence
    assert divergence is not None
    assert divergence.kl_mean == pytest.approx(kl.mean(), rel=1e-3)
    assert divergence.kl_p99 == pytest.approx(np.quantile(kl, 0.99), rel=1e-3)
    assert divergence.loss == pytest.approx(loss, rel=1e-3)
    assert divergence.top1_agreement == agreement
    assert evaluation.shares == (0, 1, 0)


def test_bytes_are_those_that_were_read(tiny_model: ModelFactory) -> None:
    hi, lo = tiny_model("qwen3moe"), tiny_model("qwen3moe", experts_quant="Q4_0")
    windows = cut_windows(make_prompt(64), 32)
    memory = arena_bytes(hi, ArenaSize.QUARTER)
    with closing(
        hobbit_py.Llama(hi, lo=lo, expert_memory=memory, policy=HobbitThresholds(0, 0.8), n_ctx=64, n_threads=1)
    ) as model:
        model.eval(make_prompt(5))
        before = model.stats()
        evaluation = evaluate(model, windows)
        n_read = model.stats().read_bytes - before.read_bytes
    assert evaluation.read_bytes_per_token == n_read / 64 > 0
    assert sum(evaluation.shares) == pytest.approx(1)
    assert min(evaluation.shares) > 0


def test_windows() -> None:
    windows = cut_windows(range(100), 30, bos=-1)
    assert len(windows.inputs) == 3
    assert windows.inputs[1] == (-1, *range(31, 60))
    assert windows.targets[1] == tuple(range(46, 60))  # 15 .. 28 predict 16 .. 29
    assert windows.n_scored == 3 * 14
    assert cut_windows(range(20), 512).inputs == (tuple(range(20)),)
    assert cut_windows(range(20), 20, first_scored=1).targets == (tuple(range(2, 20)),)
    with pytest.raises(UsageError, match="7 tokens"):
        cut_windows(range(7), 512)


def test_no_room_for_the_reference_is_a_sentence() -> None:
    with pytest.raises(HobbitError, match="MiB free, expected"):
        Reference(1 << 30, 1 << 20)


def vocabulary(path: Path) -> int:
    with stock_llama(path, n_ctx=256) as stock:
        return int(stock.n_vocab())


def exact_llama(path: Path, size: ArenaSize) -> hobbit_py.Llama:
    return hobbit_py.Llama(path, expert_memory=arena_bytes(path, size), precision="exact", n_ctx=64, n_threads=1)
