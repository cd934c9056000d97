"""One measured run: load, evaluate a prompt, decode. Any `llama_cpp.Llama` will do, a stock one too.

All are driven by the same loop, `eval` and the argmax of the last logits, so that sampling costs are equal. What is
evaluated next is the text's next token and not the model's own: left to themselves under greedy decoding models repeat
themselves, the smaller the sooner, and a sentence over and over needs few experts; and with lossy settings each would
write, and be measured on, a text of its own.
"""

from __future__ import annotations

import hashlib
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..stats import Stats, peak_rss_bytes

if TYPE_CHECKING:
    import llama_cpp

_FILL_POLL_S = 0.1
_FILL_STILL_S = 1.0  # without a byte read: the background reads are done, or the drive has failed


@dataclass(frozen=True)
class RunShape:
    """How much is evaluated."""

    n_prompt: int = 64
    n_decode: int = 64
    min_decode: int = 16
    max_decode_s: float = float("inf")
    """Ends a slow decode, after `min_decode` tokens at least."""
    n_warm: int = 0
    """Tokens to evaluate before anything is measured."""
    n_batch: int = 512
    wait_for_fill: bool = False
    """Let the background reads of a model whose experts all have room finish first."""

    @property
    def n_ctx(self) -> int:
        """The context length that such a run needs."""
        return max(self.n_prompt + self.n_decode + 1, min(self.n_warm, self.n_batch))


@dataclass(frozen=True)
class Measurement:
    """Times in seconds, sizes in bytes; figures per token are means over the decoded tokens.

    What only hobbit_py counts is None for a stock model, storage bytes where the system does not tell.
    """

    load_s: float
    first_token_s: float
    """From the start of the load."""
    prompt_tokens: int
    prompt_tok_s: float
    decode_tok_s: float
    token_s: list[float]
    cpu_s_per_token: float
    peak_rss_bytes: int
    tokens: list[int]
    """What the model would have written after the prompt and after each token of the text that followed."""
    text_sha256: str
    storage_bytes_per_token: float | None
    hit_rate: float | None = None
    read_bytes_per_token: float | None = None
    wanted_bytes_per_token: float | None = None
    """Of copies that were not complete when the token wanted them."""
    stall_s_per_token: float | None = None
    expert_memory_bytes: int | None = None
    precision: str | None = None
    note: str | None = None
    """What the model says of its settings."""


def measure(load: Callable[[int], llama_cpp.Llama], text: str, shape: RunShape) -> Measurement:
    """Loads a model by `load(n_ctx)`, runs it over the tokens of `text` and closes it.

    A text that is too short is repeated. Raises UsageError for an empty one, and what loading and computing raise.
    """
    started = time.perf_counter()
    model = load(shape.n_ctx)
    load_s = time.perf_counter() - started
    try:
        return _measure_loaded(model, load_s, text, shape)
    finally:
        model.close()


def _measure_loaded(model: llama_cpp.Llama, load_s: float, text: str, shape: RunShape) -> Measurement:
    tokens_of_text = text_tokens(model, text, shape.n_prompt + shape.n_decode)
    prompt = tokens_of_text[: shape.n_prompt]
    _warm_up(model, text, shape)
    prompt_started = time.perf_counter()
    model.eval(prompt)
    token = _next_token(model)
    prompt_s = time.perf_counter() - prompt_started

    read_stats: Callable[[], Stats] | None = getattr(model, "stats", None)  # hobbit_py only
    stats_before = read_stats() if read_stats else Stats()
    storage_before, cpu_before = _storage_bytes(), _cpu_s()
    tokens, token_s = [token], []
    decode_started = time.perf_counter()
    for idx, text_token in enumerate(tokens_of_text[shape.n_prompt :]):
        token_started = time.perf_counter()
        model.eval([text_token])
        token = _next_token(model)
        token_s.append(time.perf_counter() - token_started)
        tokens.append(token)
        if idx + 1 >= shape.min_decode and time.perf_counter() - decode_started > shape.max_decode_s:
            break
    n_decoded, decode_s = len(token_s), time.perf_counter() - decode_started
    storage_after, cpu_after = _storage_bytes(), _cpu_s()
    stats = read_stats().since(stats_before) if read_stats else None
    has_experts = stats is not None and stats.precision != "dense"
    return Measurement(
        load_s=load_s,
        first_token_s=load_s + prompt_s,
        prompt_tokens=len(prompt),
        prompt_tok_s=len(prompt) / prompt_s,
        decode_tok_s=n_decoded / decode_s,
        token_s=token_s,
        cpu_s_per_token=(cpu_after - cpu_before) / n_decoded,
        peak_rss_bytes=peak_rss_bytes(),
        tokens=tokens,
        text_sha256=hashlib.sha256(model.detokenize(tokens)).hexdigest(),
        storage_bytes_per_token=(
            None if storage_before is None or storage_after is None else (storage_after - storage_before) / n_decoded
        ),
        hit_rate=stats.measured_hit_rate if stats and has_experts else None,
        read_bytes_per_token=stats.read_bytes / n_decoded if stats and has_experts else None,
        wanted_bytes_per_token=stats.wanted_bytes / n_decoded if stats and has_experts else None,
        stall_s_per_token=stats.stall_us / 1e6 / n_decoded if stats and has_experts else None,
        expert_memory_bytes=stats.expert_memory_bytes if stats and has_experts else None,
        precision=stats.precision if stats else None,
        note=getattr(model, "note", None),
    )


def _warm_up(model: llama_cpp.Llama, text: str, shape: RunShape) -> None:
    if shape.wait_for_fill:
        last_bytes, still_since = -1, time.monotonic()
        while time.monotonic() - still_since < _FILL_STILL_S:
            time.sleep(_FILL_POLL_S)
            n_bytes = model.stats().read_bytes
            if n_bytes != last_bytes:
                last_bytes, still_since = n_bytes, time.monotonic()
    for window in range(0, shape.n_warm, shape.n_ctx):
        model.eval(text_tokens(model, text, shape.n_warm)[window : window + shape.n_ctx])
        model.reset()


def _storage_bytes() -> int | None:
    """Bytes this process made the drive read so far, read-ahead of mapped files included; None where unknown."""
    try:
        counters = Path("/proc/self/io").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^read_bytes: (\d+)", counters, re.MULTILINE)
    return int(found[1]) if found else None


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _next_token(model: llama_cpp.Llama) -> int:
    # Not at the top: hobbit_py has settings to make before llama_cpp is loaded.
    import llama_cpp

    logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(np.argmax(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),))))


def text_tokens(model: llama_cpp.Llama, text: str, n_tokens: int) -> list[int]:
    """The first tokens of a text, which is repeated if it is too short. Raises UsageError for an empty one."""
    tokens: list[int] = model.tokenize(text.encode())
    if not tokens:
        raise UsageError("The text to measure with is empty; give a file with some text.")
    return (tokens * -(-n_tokens // len(tokens)))[:n_tokens]
