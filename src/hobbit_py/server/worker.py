"""The thread that computes: requests in the order they came, one at a time, each given up as soon as nobody wants it.

llama.cpp computes with the interpreter's lock released, so the event loop goes on answering meanwhile. Nothing here
waits for a client: what was computed is queued for it, and the next request begins.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..llama import Llama
from .api_errors import ApiError

# A call on the model: an iterator of chunks, or one whole answer.
Work = Callable[[Llama], Any]

_MAX_UNREAD = 4096  # chunks a client may be behind; a context's worth for most


class _GivenUp(Exception):  # noqa: N818 - not an error
    """The client is gone or the server stops."""


@dataclass
class Counts:
    """What the worker did; written by its thread alone."""

    n_prompt_tokens: int = 0
    """Computed: what a prompt shares with the context before it costs nothing."""
    n_generated_tokens: int = 0
    """Computed: the last one of an answer never is."""
    prompt_s: float = 0.0
    decode_s: float = 0.0
    n_requests: dict[str, int] = field(default_factory=lambda: {"done": 0, "failed": 0, "cancelled": 0})
    last_tok_s: float = 0.0
    """Decoding speed of the last request that decoded."""


class Turn:
    """One request on its way: waiting, computed, over."""

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.cancelled = False
        self.n_evals = 0
        self.began_at = 0.0
        self.decode_began_at = 0.0
        self._loop = loop
        self._events: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()

    def cancel(self) -> None:
        """Nobody wants the rest; it ends before the next token."""
        self.cancelled = True

    def put(self, event: dict[str, Any] | Exception | None) -> None:
        """Hands a chunk, an error or the end (None) to the event loop; from any thread.

        Raises ApiError if the client is too many chunks behind; errors and the end always go.
        """
        if isinstance(event, dict) and self._events.qsize() >= _MAX_UNREAD:
            raise ApiError(500, "too_slow", "The answer was not read as fast as it was written.")
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server has stopped
            self.cancelled = True

    async def next(self) -> dict[str, Any] | None:
        """The next chunk, or None at the end. Raises what the request ended with."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


class Worker:
    """Owns the model's thread. Made and called from the event loop's thread."""

    def __init__(self, llama: Llama, max_waiting: int) -> None:
        self.counts = Counts()
        self._llama = llama
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Turn] = deque()
        self._current: Turn | None = None
        self._stopping = False
        llama.before_batch = self._before_batch
        self._thread = threading.Thread(target=self._run, name="hobbit-compute", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a request is being computed."""
        return self._current is not None

    def submit(self, work: Work) -> Turn:
        """Queues a request behind all others; raises ApiError (503) if too many wait or the server stops."""
        turn = Turn(work, asyncio.get_running_loop())
        with self._changed:
            if self._stopping:
                raise _stopping()
            if len(self._waiting) >= self._max_waiting:
                raise ApiError(503, "overloaded", f"{self._max_waiting} requests are waiting already; try again later.")
            self._waiting.append(turn)
            self._changed.notify()
        return turn

    def leave(self, turn: Turn) -> None:
        """The client is gone: a waiting request leaves the queue, one in progress ends before its next token."""
        turn.cancel()
        with self._changed:
            if turn in self._waiting:
                self._waiting.remove(turn)
                self.counts.n_requests["cancelled"] += 1

    def refuse(self) -> None:
        """Ends the requests that wait, with 503, and takes no more; the one in progress goes on."""
        with self._changed:
            self._stopping = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify()
        for turn in waiting:
            turn.put(_stopping())

    def cancel_current(self) -> None:
        """Ends the request in progress before its next token."""
        if (turn := self._current) is not None:
            turn.cancel()

    def stop(self) -> None:
        """Ends the request in progress and the thread."""
        self.refuse()
        self.cancel_current()
        self._thread.join()
        self._llama.before_batch = None

    def _run(self) -> None:
        while (turn := self._next_turn()) is not None:
            outcome: Exception | None = None
            try:
                self._compute(turn)
            except _GivenUp:
                turn.cancel()
            except Exception as error:
                outcome = error
            self._count(turn, outcome)
            self._current = None
            turn.put(outcome)

    def _next_turn(self) -> Turn | None:
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait()
            self._current = self._waiting.popleft()
            return self._current

    def _compute(self, turn: Turn) -> None:
        answer = turn.work(self._llama)
        if not isinstance(answer, Iterator):
            turn.put(answer)
            return
        for chunk in answer:
            if turn.cancelled:
                raise _GivenUp
            turn.put(chunk)

    def _before_batch(self, n_tokens: int, n_before: int) -> None:
        turn = self._current
        if turn is None:
            return
        if turn.cancelled:
            raise _GivenUp
        # The first evaluation of a request is its prompt's, each further one that of a token that was sampled.
        if n_before == 0:
            turn.n_evals += 1
            if turn.n_evals <= 2:
                turn.decode_began_at = time.perf_counter()
            if turn.n_evals == 1:
                turn.began_at = turn.decode_began_at
        if turn.n_evals == 1:
            self.counts.n_prompt_tokens += n_tokens
        else:
            self.counts.n_generated_tokens += 1

    def _count(self, turn: Turn, outcome: Exception | None) -> None:
        counts = self.counts
        counts.n_requests["failed" if outcome else "cancelled" if turn.cancelled else "done"] += 1
        if turn.n_evals == 0:
            return
        decode_s = time.perf_counter() - turn.decode_began_at
        if turn.n_evals == 1:
            counts.prompt_s += decode_s
            return
        counts.prompt_s += turn.decode_began_at - turn.began_at
        counts.decode_s += decode_s
        counts.last_tok_s = (turn.n_evals - 1) / decode_s


def _stopping() -> ApiError:
    return ApiError(503, "stopping", "The server is stopping.")
