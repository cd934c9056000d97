"""The HTTP interface: OpenAI's completions and chat, and what a person or a monitor wants to know of the server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..llama import Llama
from .api_errors import ApiError, explain
from .completions import plan_call
from .guard import Guard
from .limits import Limits, read_json
from .metrics import Metrics
from .openapi import describe
from .requests import ChatRequest, CompletionRequest, parse
from .state import snapshot
from .worker import Turn, Worker

_PAGE = Path(__file__).parent / "page"
_MAX_BODY_S = 30.0  # for a request's body to arrive
_STREAM_HEADERS = {"X-Accel-Buffering": "no"}  # proxies must not collect what is meant to be seen at once


class Api:
    """The routes of one model."""

    def __init__(self, llama: Llama, worker: Worker, model_name: str, limits: Limits, *, can_logprobs: bool) -> None:
        self._llama = llama
        self._worker = worker
        self._model_name = model_name
        self._limits = limits
        self._can_logprobs = can_logprobs
        self._metrics = Metrics(llama, worker)
        self._description = describe()

    def app(self, *, api_key: str | None, hosts: tuple[str, ...] | None) -> Starlette:
        """The application to serve; see `guard.Guard` for the arguments."""
        routes = [
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._complete), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/health", self._health),
            Route("/metrics", self._show_metrics),
            Route("/state", self._state),
            Route("/openapi.json", self._openapi),
            Route("/", _static("page.html", "text/html")),
            Route("/page.css", _static("page.css", "text/css")),
            Route("/page.js", _static("page.js", "text/javascript")),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(Guard, api_key=api_key, hosts=hosts)],
            exception_handlers={HTTPException: _on_http_error},
        )

    async def _chat(self, request: HttpRequest) -> Response:
        return await self._answer(request, parse(ChatRequest, await self._body(request)))

    async def _complete(self, request: HttpRequest) -> Response:
        return await self._answer(request, parse(CompletionRequest, await self._body(request)))

    async def _answer(self, request: HttpRequest, wanted: ChatRequest | CompletionRequest) -> Response:
        call = plan_call(wanted, self._llama, self._model_name, self._limits, can_logprobs=self._can_logprobs)
        turn = self._worker.submit(call)
        # Nothing is answered before the first chunk: until then, what is wrong can still become a status.
        try:
            first = await _unless_disconnected(request, turn.next)
        except BaseException:
            self._worker.leave(turn)
            raise
        if first is None:
            raise ApiError(503, "stopping", "The server is stopping.")
        if wanted.stream:
            return StreamingResponse(self._events(turn, first), media_type="text/event-stream", headers=_STREAM_HEADERS)
        return Response(_to_json(first), media_type="application/json")

    async def _events(self, turn: Turn, chunk: dict[str, Any] | None) -> AsyncIterator[str]:
        try:
            while chunk is not None:
                yield f"data: {_to_json(chunk)}\n\n"
                chunk = await turn.next()
            if not turn.cancelled:  # else the server stops, and the answer is not whole
                yield "data: [DONE]\n\n"
        except Exception as error:
            yield f"data: {json.dumps(explain(error).body())}\n\n"
        finally:
            self._worker.leave(turn)

    async def _body(self, request: HttpRequest) -> dict[str, Any]:
        limit = self._limits.max_body_bytes
        too_large = ApiError(413, "body_too_large", f"A request's body may have {limit} bytes.")
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        body = bytearray()
        try:
            with anyio.fail_after(_MAX_BODY_S):
                async for piece in request.stream():
                    body += piece
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, "body_too_slow", f"The body did not arrive within {_MAX_BODY_S:.0f} s.") from None
        return read_json(bytes(body))

    def _guarded(
        self, handler: Callable[[HttpRequest], Awaitable[Response]]
    ) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def handle(request: HttpRequest) -> Response:
            try:
                return await handler(request)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except Exception as error:
                return explain(error).response()

        return handle

    async def _models(self, _request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: HttpRequest) -> Response:
        if request.path_params["name"] != self._model_name:
            return ApiError(404, "model_not_found", f"The model here is {self._model_name!r}.").response()
        return JSONResponse(self._card())

    def _card(self) -> dict[str, object]:
        return {"id": self._model_name, "object": "model", "created": 0, "owned_by": "user"}

    async def _health(self, _request: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def _show_metrics(self, _request: HttpRequest) -> Response:
        text, content_type = self._metrics.render()
        return Response(text, media_type=content_type)

    async def _state(self, _request: HttpRequest) -> Response:
        return JSONResponse(snapshot(self._llama, self._worker, self._model_name))

    async def _openapi(self, _request: HttpRequest) -> Response:
        return JSONResponse(self._description)


def _to_json(answer: dict[str, Any]) -> str:
    # llama_cpp's log-probabilities are numpy's numbers.
    return json.dumps(answer, default=float, ensure_ascii=False, separators=(",", ":"))


def _static(name: str, content_type: str) -> Callable[[HttpRequest], Awaitable[Response]]:
    async def serve(_request: HttpRequest) -> Response:
        return FileResponse(_PAGE / name, media_type=content_type)

    return serve


async def _on_http_error(_request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = ApiError(error.status_code, "http_error", f"{error.detail}.").response()
    response.headers.update(error.headers or {})
    return response


async def _unless_disconnected(
    request: HttpRequest, wait: Callable[[], Awaitable[dict[str, Any] | None]]
) -> dict[str, Any] | None:
    """Awaits `wait()`; raises ClientDisconnect as soon as the client hangs up."""
    result: dict[str, Any] | None = None
    failure: Exception | None = None
    gone = True
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            result = await wait()
            gone = False
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if gone:
        raise ClientDisconnect
    return result
