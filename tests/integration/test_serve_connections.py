"""Connections that are held open without being used are closed, and the others are not."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hobbit_py.server.connections import TimedProtocol

pytestmark = pytest.mark.alone

LIMIT_S = 0.3
REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"
N_LARGE_BYTES = 64 << 20  # more than the buffers of two sockets


class QuickProtocol(TimedProtocol):
    header_s = LIMIT_S
    stall_s = LIMIT_S


async def small(_request: Request) -> Response:
    return PlainTextResponse("small")


async def slow(_request: Request) -> Response:
    await asyncio.sleep(4 * LIMIT_S)
    return PlainTextResponse("slow")


async def large(_request: Request) -> Response:
    return PlainTextResponse(b"x" * N_LARGE_BYTES)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    app = Starlette(routes=[Route("/small", small), Route("/slow", slow), Route("/large", large)])
    config = uvicorn.Config(app, http=QuickProtocol, lifespan="off", log_level="critical", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def closed_after_s(connection: socket.socket) -> float:
    """How long the server waits before it closes."""
    start = time.monotonic()
    connection.settimeout(20 * LIMIT_S)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass
    return time.monotonic() - start


@pytest.mark.parametrize("beginning", [b"", b"GET /small HT", REQUEST[:-2]], ids=["nothing", "half a line", "no end"])
def test_a_connection_without_a_request_is_closed(address: tuple[str, int], beginning: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(beginning)
        assert LIMIT_S / 2 < closed_after_s(connection) < 10 * LIMIT_S


def test_headers_that_drip_are_cut_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        start = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in REQUEST[:-2] + b"X-Filler: " + b"x" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(LIMIT_S / 5)
        assert time.monotonic() - start < 10 * LIMIT_S


def test_a_slow_answer_and_the_next_request_are_waited_for(address: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*address)
    with contextlib.closing(connection):
        connection.request("GET", "/slow")
        assert connection.getresponse().read() == b"slow"
        time.sleep(2 * LIMIT_S)
        connection.request("GET", "/small")
        assert connection.getresponse().read() == b"small"


def test_a_client_that_does_not_read_is_cut_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(REQUEST.replace(b"small", b"large"))
        time.sleep(5 * LIMIT_S)
        n_read = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 20):
                n_read += len(piece)
        assert n_read < N_LARGE_BYTES
