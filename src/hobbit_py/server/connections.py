"""Connections that are held open without being used: uvicorn's HTTP protocol with the time limits it lacks."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0  # for a request's headers to arrive, from the connection or the answer before
STALL_S = 30.0  # that a client may leave what was sent to it unread


class TimedProtocol(H11Protocol):
    """Closes a connection that brings no request, and one whose client does not read.

    uvicorn itself limits only the time between two requests. Bodies are limited where they are read (`app`).
    """

    header_s = HEADER_S
    stall_s = STALL_S
    _header_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock starts."""
        super().connection_made(transport)
        self._header_timer = self.loop.call_later(self.header_s, self._abort_if_idle)

    def data_received(self, data: bytes) -> None:
        """Headers that are still incomplete get their time once."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._cancel_header_timer()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_s, self._abort_if_idle)

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client took it."""
        super().resume_writing()
        self._cancel_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """No clock runs on."""
        self._cancel_header_timer()
        self._cancel_stall_timer()
        super().connection_lost(exc)

    def _abort_if_idle(self) -> None:
        self._header_timer = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
