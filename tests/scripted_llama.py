"""A model that answers from a script: its tokens are bytes, its costs are fixed, and it can fail or be interrupted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from hobbit_py.stats import Stats

BOS, EOS = 256, 257
Step = str | bytes | Exception | Callable[[], None]

_TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'refuse' %}{{ raise_exception('no such role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


class ScriptedLlama:
    """Stands in for hobbit_py.Llama where the command line meets it.

    Every answer is a list of steps: text to generate, an exception to raise, a function to call.
    """

    chat_format = "scripted"
    chat_handler = None
    verbose = False

    def __init__(self, *answers: Sequence[Step], n_ctx: int = 512, precision: str = "exact") -> None:
        self._answers = list(answers)
        self._n_ctx = n_ctx
        self._stats = Stats(precision=precision, expert_memory_bytes=1 << 20)
        self._model = SimpleNamespace(vocab=None)
        formatter = Jinja2ChatFormatter(_TEMPLATE, eos_token="", bos_token="")  # type: ignore[no-untyped-call]
        self._chat_handlers = {"scripted": formatter.to_chat_handler()}
        self.note: str | None = None
        self.n_tokens = 0
        self.prompts: list[str] = []
        self.is_closed = False
        self.sampling: dict[str, Any] = {}

    def n_ctx(self) -> int:
        return self._n_ctx

    def stats(self) -> Stats:
        return self._stats

    def reset(self) -> None:
        self.n_tokens = 0

    def close(self) -> None:
        self.is_closed = True

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        return [BOS] * add_bos + list(text)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return bytes(token for token in tokens if token < BOS)

    def _eval(self, n_tokens: int) -> None:
        """A token costs 3 hits, 1 miss, 1000 bytes and 500 us."""
        stats = self._stats
        self._stats = replace(
            stats,
            n_hits_hi=stats.n_hits_hi + 3 * n_tokens,
            n_misses_hi=stats.n_misses_hi + n_tokens,
            read_bytes_hi=stats.read_bytes_hi + 1000 * n_tokens,
            stall_us=stats.stall_us + 500 * n_tokens,
            n_tokens=stats.n_tokens + n_tokens,
        )
        self.n_tokens += n_tokens

    def generate(self, tokens: Sequence[int], **sampling: Any) -> Iterator[int]:
        self.prompts.append(self.detokenize(tokens).decode(errors="replace"))
        self.sampling = sampling
        self.n_tokens = 0
        self._eval(len(tokens))
        for step in [*self._answers.pop(0), b""]:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
                continue
            for token in (step.encode() if isinstance(step, str) else step) or [EOS]:
                yield token
                self._eval(1)

    def create_completion(
        self, *, prompt: list[int], max_tokens: int | None, stopping_criteria: Any, stream: bool, **sampling: Any
    ) -> Iterator[dict[str, Any]]:
        """Streams as llama_cpp does: the criteria are asked before a token is given away, with the ids before it."""
        assert stream
        assert len(prompt) < self._n_ctx
        n_room = self._n_ctx - len(prompt)
        max_tokens = min(max_tokens or n_room, n_room)
        ids = list(prompt)
        reason = "stop"
        for token in self.generate(prompt, **sampling):
            if stopping_criteria(ids, None) or token == EOS:
                break
            ids.append(token)
            yield {"choices": [{"text": chr(token), "finish_reason": None}]}
            if len(ids) - len(prompt) >= max_tokens:
                reason = "length"
                break
        yield {"choices": [{"text": "", "finish_reason": reason}]}
