"""Serving one model until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

import uvicorn

from ..errors import UsageError
from ..llama import Llama
from .app import Api
from .connections import TimedProtocol
from .guard import LOOPBACK_NAMES
from .limits import Limits
from .worker import Worker

_MAX_CONNECTIONS = 512
_CANCEL_S = 5  # for a cancelled answer to end, before its connection is cut


@dataclass(frozen=True)
class ServerOptions:
    """How the server is reached."""

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    grace_s: int = 10
    """How long the request in progress may go on after the signal to stop."""
    limits: Limits = field(default_factory=Limits)
    logprobs: bool = False
    log_requests: bool = False

    def check(self) -> None:
        """Raises UsageError for an address beyond this machine without a key."""
        if self.api_key is None and not _is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} lets other machines in and no key is set, so anyone who reaches it could use the "
                "model; give --api-key."
            )
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("The API key is empty or has characters that an HTTP header cannot carry.")


def bind(host: str, port: int) -> socket.socket:
    """Takes the address, before a model is loaded for nothing; port 0: any free one. Raises UsageError."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"The address {host!r} cannot be used: {error.strerror or error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Port {port} of {host} cannot be listened on: {error.strerror}; choose another with --port."
        ) from None
    return listener


def serve(
    llama: Llama, model_name: str, listener: socket.socket, options: ServerOptions, on_ready: Callable[[], None]
) -> None:
    """Answers requests until SIGINT or SIGTERM; then the one in progress is finished, or cancelled after `grace_s`.

    `listener` is closed. The model is the caller's to close.
    """
    asyncio.run(_serve(llama, model_name, listener, options, on_ready))


async def _serve(
    llama: Llama, model_name: str, listener: socket.socket, options: ServerOptions, on_ready: Callable[[], None]
) -> None:
    worker = Worker(llama, options.limits.max_waiting)
    try:
        api = Api(llama, worker, model_name, options.limits, can_logprobs=options.logprobs)
        hosts = (*LOOPBACK_NAMES, options.host.lower()) if _is_loopback(options.host) else None
        config = uvicorn.Config(
            api.app(api_key=options.api_key, hosts=hosts),
            http=TimedProtocol,
            ws="none",
            lifespan="off",
            # What uvicorn calls an error is a client that went away; ours are told on stderr by api_errors.
            log_level="info" if options.log_requests else "critical",
            access_log=options.log_requests,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=options.grace_s + _CANCEL_S,
        )
        await _Server(config, worker, options.grace_s, on_ready).serve(sockets=[listener])
    finally:
        listener.close()
        worker.stop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: Worker, grace_s: float, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._worker = worker
        self._grace_s = grace_s
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.refuse()
        asyncio.get_running_loop().call_later(self._grace_s, self._worker.cancel_current)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would raise the signal again at the end, and the model would never be closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # A second signal ends the grace of the request in progress.
        self.force_exit = self.should_exit
        self.should_exit = True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
