"""Where the user's messages come from: a terminal with editing and history, or plain lines."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import Output


class LineInput(Protocol):
    """A source of messages; interactive tells whether a person types them."""

    interactive: bool

    def read(self) -> str | None:
        """Returns the next message, or None at the end of input."""


class PlainInput:
    """One message a line; a trailing backslash continues on the next."""

    interactive = False

    def __init__(self) -> None:
        # Bytes that are not UTF-8 become U+FFFD rather than a traceback.
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")

    def read(self) -> str | None:
        """Returns the next message, or None at the end of input."""
        message = ""
        while line := sys.stdin.readline():
            line = line.removesuffix("\n").removesuffix("\r")
            if not line.endswith("\\"):
                return message + line
            message += line.removesuffix("\\") + "\n"
        return message or None


class TerminalInput:
    """A prompt with editing, history and several lines; Alt-Enter or a trailing backslash breaks a line."""

    interactive = True

    def __init__(
        self, notice: Callable[[str], None], *, source: Input | None = None, sink: Output | None = None
    ) -> None:
        from prompt_toolkit import PromptSession

        self._notice = notice
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_key_bindings(),
            history=_open_history(),
            input=source,
            output=sink,
        )

    def read(self) -> str | None:
        """Returns the next message, or None once the user pressed Ctrl-D."""
        while True:
            try:
                return self._session.prompt()
            except KeyboardInterrupt:
                self._notice("Ctrl-D or /exit leaves.")
            except EOFError:
                return None


def open_input(notice: Callable[[str], None]) -> LineInput:
    """Returns the terminal's input if the user sits at one, else plain lines of stdin."""
    return TerminalInput(notice) if sys.stdin.isatty() and sys.stdout.isatty() else PlainInput()


def _key_bindings() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _break_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def _clear_or_interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def history_path() -> Path:
    """Returns where messages are kept between runs, by the XDG base directory rules."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".local" / "state"
    return base / "hobbit_py" / "history"


def _open_history() -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        path = history_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What people ask a model is theirs alone to read.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except (OSError, RuntimeError):
        # A home that is missing or read-only costs the history, not the chat.
        return InMemoryHistory()

    class _Forgiving(FileHistory):
        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError):
                super().store_string(string)

    return _Forgiving(str(path))
