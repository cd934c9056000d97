"""A conversation: its turns, how they are fitted into the context, and one answer at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import HobbitError, UsageError
from ..stats import Stats
from .interrupts import StopRequest

if TYPE_CHECKING:
    from ..llama import Llama


@dataclass(frozen=True)
class Turn:
    """A question and what the model answered, or had answered when it was stopped."""

    question: str
    answer: str


@dataclass(frozen=True)
class Answer:
    """One answer with what it cost; the prompt's share is in stats, not in decode_tok_s."""

    text: str
    n_tokens: int
    decode_tok_s: float | None
    stats: Stats
    ended_by: Literal["model", "user", "max_tokens", "context"]


@dataclass(frozen=True)
class _Request:
    """What the model's chat format makes of the messages."""

    prompt: list[int]
    stop: list[str]
    stopping_criteria: list[Callable[..., bool]]


class _PromptCapture:
    """Stands in for the model in a chat handler of llama_cpp and takes the completion it asks for.

    The handlers alone know how messages become tokens, and they offer no way to ask for the tokens only.
    """

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self.request: _Request | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._llama, name)

    def create_completion(
        self,
        prompt: list[int],
        stop: str | list[str] | None = None,
        stopping_criteria: list[Callable[..., bool]] | None = None,
        **_sampling: object,
    ) -> Iterator[object]:
        self.request = _Request(prompt, [stop] if isinstance(stop, str) else stop or [], stopping_criteria or [])
        return iter(())


def _render(llama: Llama, messages: Sequence[dict[str, str]]) -> _Request:
    from jinja2 import TemplateError
    from llama_cpp import llama_chat_format

    handler: Any = (
        llama.chat_handler
        or llama._chat_handlers.get(llama.chat_format)
        or llama_chat_format.get_chat_completion_handler(llama.chat_format)
    )
    capture = _PromptCapture(llama)
    try:
        # As a stream, so that the handler does not look at what was generated.
        handler(llama=capture, messages=list(messages), stream=True)
    except (ValueError, TypeError, TemplateError) as error:
        raise UsageError(f"The chat template of this model refuses the conversation: {error}.") from error
    if capture.request is None:
        raise HobbitError(f"The chat format {llama.chat_format!r} of this model asks for no completion.")
    return capture.request


@dataclass
class _Meter:
    """Counts and times sampled tokens from where llama_cpp asks whether to stop, and passes Ctrl-C on."""

    n_prompt: int
    stop: StopRequest
    n_tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def __call__(self, input_ids: Sequence[int], _logits: object) -> bool:
        # The ids do not hold the token just sampled. The call that follows the last token repeats its number.
        n_tokens = len(input_ids) - self.n_prompt + 1
        if n_tokens > self.n_tokens:
            self.last_s = time.perf_counter()
            self.first_s = self.first_s or self.last_s
            self.n_tokens = n_tokens
            self.stop.has_token = True
        return self.stop.requested

    @property
    def decode_tok_s(self) -> float | None:
        return (self.n_tokens - 1) / (self.last_s - self.first_s) if self.n_tokens > 1 else None


@dataclass
class Conversation:
    """The turns so far. max_tokens None lets an answer run to the end of the context."""

    llama: Llama
    system: str | None = None
    max_tokens: int | None = None
    temp: float = 0.8
    top_p: float = 0.95
    turns: list[Turn] = field(default_factory=list)

    def reset(self) -> None:
        """Forgets all turns; the system message stays."""
        self.turns.clear()
        self.llama.reset()

    def ask(self, question: str, show: Callable[[str], None], notice: Callable[[str], None]) -> Answer:
        """Answers the question, giving the text to show as it comes, and keeps the turn.

        Ctrl-C ends the answer; what was shown is kept. A turn without any answer is not kept, and neither is one that
        failed with a HobbitError. notice gets a sentence when old turns are dropped to make room.
        """
        request = self._fit(question, notice)
        n_room = self.llama.n_ctx() - len(request.prompt)
        stop = StopRequest()
        meter = _Meter(len(request.prompt), stop)
        before = self.llama.stats()
        pieces: list[str] = []
        reason: str | None = None
        with stop.listening():
            try:
                for chunk in self._stream(request, meter):
                    choice = chunk["choices"][0]
                    reason = choice["finish_reason"]
                    pieces.append(choice["text"])
                    show(choice["text"])
            except KeyboardInterrupt:
                stop.requested = True
            except RuntimeError as error:
                raise HobbitError(f"The answer failed: {error}.") from error
        text = "".join(pieces)
        if text:
            self.turns.append(Turn(question, text))
        ended_by: Literal["model", "user", "max_tokens", "context"] = "model"
        if stop.requested:
            ended_by = "user"
        elif reason == "length":
            ended_by = "context" if self.max_tokens is None or n_room <= self.max_tokens else "max_tokens"
        return Answer(text, meter.n_tokens, meter.decode_tok_s, self.llama.stats().since(before), ended_by)

    def _stream(self, request: _Request, meter: _Meter) -> Iterator[dict[str, Any]]:
        from llama_cpp import StoppingCriteriaList

        chunks: Iterator[dict[str, Any]] = self.llama.create_completion(
            prompt=request.prompt,
            max_tokens=self.max_tokens,
            temperature=self.temp,
            top_p=self.top_p,
            repeat_penalty=1.0,
            stop=request.stop,
            stopping_criteria=StoppingCriteriaList([meter, *request.stopping_criteria]),
            stream=True,
        )
        return chunks

    def _messages(self, question: str) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return [*messages, {"role": "user", "content": question}]

    def _fit(self, question: str, notice: Callable[[str], None]) -> _Request:
        n_ctx = self.llama.n_ctx()
        n_answer = min(self.max_tokens or n_ctx, n_ctx // 4)
        request = _render(self.llama, self._messages(question))
        if len(request.prompt) + n_answer > n_ctx:
            # Every drop makes the model evaluate all that is left once more, so it is done rarely and thoroughly.
            n_dropped = 0
            while self.turns and len(request.prompt) > n_ctx // 2:
                del self.turns[0]
                n_dropped += 1
                request = _render(self.llama, self._messages(question))
            if n_dropped:
                turns = "turn was" if n_dropped == 1 else f"{n_dropped} turns were"
                notice(f"The oldest {turns} dropped: the conversation outgrew the context of {n_ctx} tokens (--ctx).")
        if len(request.prompt) >= n_ctx:
            raise UsageError(
                f"The message makes a prompt of {len(request.prompt)} tokens and the context holds {n_ctx}; shorten it "
                "or raise --ctx."
            )
        return request
