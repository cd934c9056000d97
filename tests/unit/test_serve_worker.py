"""The thread that computes, with a model whose calls are scripted."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from hobbit_py.server import worker as worker_module
from hobbit_py.server.api_errors import ApiError
from hobbit_py.server.worker import Turn, Worker


class ScriptedLlama:
    """Evaluates nothing, and calls before_batch as the real one does."""

    before_batch: Callable[[int, int], None] | None = None

    def evaluate(self, n_tokens: int, n_batch: int = 512) -> None:
        for n_before in range(0, n_tokens, n_batch):
            assert self.before_batch is not None
            self.before_batch(min(n_batch, n_tokens - n_before), n_before)

    def stream(self, n_prompt: int, n_chunks: int) -> Iterator[dict[str, Any]]:
        for i in range(n_chunks):
            self.evaluate(n_prompt if i == 0 else 1)
            yield {"i": i}


def with_worker(test: Callable[[Worker, ScriptedLlama], Awaitable[None]], *, max_waiting: int = 8) -> None:
    async def run() -> None:
        llama: Any = ScriptedLlama()
        worker = Worker(llama, max_waiting)
        try:
            await asyncio.wait_for(test(worker, llama), 20)
        finally:
            worker.stop()

    asyncio.run(run())


async def read_all(turn: Turn, chunks: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """All chunks of a turn; also those before a failure, in `chunks`."""
    chunks = [] if chunks is None else chunks
    while (chunk := await turn.next()) is not None:
        chunks.append(chunk)
    return chunks


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_chunks_come_in_order_and_are_counted() -> None:
    async def test(worker: Worker, _llama: ScriptedLlama) -> None:
        turn = worker.submit(lambda llama: llama.stream(1000, 5))  # type: ignore[attr-defined]
        assert [chunk["i"] for chunk in await read_all(turn)] == [0, 1, 2, 3, 4]
        assert worker.counts.n_prompt_tokens == 1000
        assert worker.counts.n_generated_tokens == 4
        assert worker.counts.n_requests == {"done": 1, "failed": 0, "cancelled": 0}
        assert worker.counts.last_tok_s > 0

    with_worker(test)


def test_first_in_first_out() -> None:
    async def test(worker: Worker, _llama: ScriptedLlama) -> None:
        order: list[int] = []
        gate = threading.Event()
        turns = [worker.submit(lambda _llama: gate.wait() and {})]
        await until(lambda: worker.busy and worker.n_waiting == 0)
        turns += [worker.submit(lambda _llama, n=n: order.append(n) or {}) for n in range(8)]
        with pytest.raises(ApiError, match="8 requests are waiting") as error:
            worker.submit(lambda _llama: {})
        assert error.value.status == 503
        worker.leave(turns[3])
        gate.set()
        for turn in (*turns[:3], *turns[4:]):
            assert await read_all(turn) == [{}]
        assert order == [0, 1, 3, 4, 5, 6, 7]
        assert worker.counts.n_requests["cancelled"] == 1

    with_worker(test)


def test_an_abandoned_request_ends_before_its_next_batch() -> None:
    async def test(worker: Worker, llama: ScriptedLlama) -> None:
        reached, gate = threading.Event(), threading.Event()
        n_batches: list[int] = []

        def prompt(_llama: Any) -> dict[str, Any]:
            for n_before in range(0, 4096, 512):
                assert llama.before_batch is not None
                llama.before_batch(512, n_before)
                n_batches.append(n_before)
                reached.set()
                gate.wait()
            return {}

        turn = worker.submit(prompt)
        await until(reached.is_set)
        worker.leave(turn)
        gate.set()
        assert await read_all(worker.submit(lambda _llama: {"next": True})) == [{"next": True}]
        assert n_batches == [0]
        assert worker.counts.n_requests == {"done": 1, "failed": 0, "cancelled": 1}

    with_worker(test)


def test_a_failure_is_the_request_s_own() -> None:
    async def test(worker: Worker, _llama: ScriptedLlama) -> None:
        def fail(_llama: Any) -> dict[str, Any]:
            raise ZeroDivisionError("once")

        turn = worker.submit(fail)
        with pytest.raises(ZeroDivisionError, match="once"):
            await turn.next()
        assert await read_all(worker.submit(lambda _llama: {})) == [{}]
        assert worker.counts.n_requests["failed"] == 1

    with_worker(test)


def test_a_client_far_behind_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_MAX_UNREAD", 10)

    async def test(worker: Worker, llama: ScriptedLlama) -> None:
        gate = threading.Event()

        def slowly(_llama: Any) -> Iterator[dict[str, Any]]:
            for chunk in llama.stream(1, 100):
                gate.wait(0.01)  # lets the event loop take what was put
                yield chunk

        turn = worker.submit(slowly)
        await until(lambda: worker.counts.n_requests["failed"] == 1)
        chunks: list[dict[str, Any]] = []
        with pytest.raises(ApiError, match="not read as fast"):
            await read_all(turn, chunks)
        assert 10 <= len(chunks) < 20
        assert await read_all(worker.submit(lambda _llama: {})) == [{}]

    with_worker(test)


def test_stopping_refuses_those_that_wait() -> None:
    async def test(worker: Worker, llama: ScriptedLlama) -> None:
        turn = worker.submit(lambda _llama: llama.stream(1, 10**9))
        assert await turn.next() == {"i": 0}
        waiting = worker.submit(lambda _llama: {})
        worker.refuse()
        with pytest.raises(ApiError, match="stopping") as error:
            await waiting.next()
        assert error.value.status == 503
        with pytest.raises(ApiError, match="stopping"):
            worker.submit(lambda _llama: {})
        assert await turn.next() == {"i": 1}
        worker.cancel_current()
        await until(lambda: not worker.busy)

    with_worker(test)
