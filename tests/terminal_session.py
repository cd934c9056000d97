"""A command in a pseudo-terminal, driven the way a person does: wait for text, type, press keys."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

CTRL_C, CTRL_D = "\x03", "\x04"
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][0-9A-B]|[=>78])|\x1b[^a-zA-Z]*$")
_PATIENCE_S = 120.0


class TerminalSession:
    """`hobbit ARGUMENTS` in a terminal of 100 columns; leaving the context ends it."""

    def __init__(self, arguments: Sequence[str], *, home: Path) -> None:
        self._terminal, command_side = pty.openpty()
        environment = os.environ | {
            "TERM": "xterm-256color",
            "COLUMNS": "100",
            "LINES": "40",
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            # Nobody answers prompt_toolkit's question where the cursor is.
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hobbit_py", *arguments],
            stdin=command_side,
            stdout=command_side,
            stderr=command_side,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(command_side)
        self._output = ""
        self._n_seen = 0

    def __enter__(self) -> "TerminalSession":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    @property
    def text(self) -> str:
        """Everything shown so far, without colours and cursor movements."""
        return _ESCAPE_SEQUENCE.sub("", self._output).replace("\r", "")

    def wait_for(self, pattern: str, patience_s: float = _PATIENCE_S) -> re.Match[str]:
        """Returns the first match of the pattern in what was shown after the previous match; fails after a while."""
        deadline = time.monotonic() + patience_s
        while True:
            match = re.compile(pattern).search(self.text, self._n_seen)
            if match:
                self._n_seen = match.end()
                return match
            assert self._read(deadline), f"{pattern!r} did not appear; shown was:\n{self.text}"

    def type(self, text: str) -> None:
        """Sends keys."""
        os.write(self._terminal, text.encode())

    def exit_code(self, patience_s: float = _PATIENCE_S) -> int:
        """Waits for the command to end."""
        deadline = time.monotonic() + patience_s
        while self._read(deadline):
            pass
        return self._process.wait(timeout=max(1.0, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Takes what the command wrote; False once it closed its terminal or time is up."""
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0 or not select.select([self._terminal], [], [], remaining_s)[0]:
            return False
        try:
            piece = os.read(self._terminal, 65536)
        except OSError:  # Linux says EIO for a terminal that nobody holds open any more
            return False
        self._output += piece.decode(errors="replace")
        return bool(piece)


def _take_terminal() -> None:
    """Makes stdin the controlling terminal, so that Ctrl-C becomes a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
