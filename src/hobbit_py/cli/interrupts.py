"""What Ctrl-C means while the model works."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_EXIT_INTERRUPTED = 130


@contextlib.contextmanager
def _on_sigint(handler: Callable[[], None]) -> Iterator[None]:
    # Python delivers signals to the main thread only, and lets only that thread set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_signal_number: int, _frame: FrameType | None) -> None:
        handler()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def exit_on_interrupt(clean_up: Callable[[], None]) -> Iterator[None]:
    """Ends the process with code 130 on Ctrl-C, after clean_up().

    A KeyboardInterrupt will not do while a model is loaded: raised inside the loader's progress callback it would be
    printed as a traceback by ctypes and then forgotten. Loading changes nothing on disk, so nothing is lost.
    """

    def leave() -> None:
        clean_up()
        os._exit(_EXIT_INTERRUPTED)

    with _on_sigint(leave):
        yield


class StopRequest:
    """Ctrl-C during one answer: noted once tokens come, a KeyboardInterrupt while the prompt is still evaluated.

    Noted, because an interrupt raised between two statements could lose a piece of text that was already shown. During
    the prompt there is nothing to lose and no token that would look at the note, so waiting would feel like hanging;
    the second Ctrl-C raises as well.
    """

    def __init__(self) -> None:
        self.requested = False
        self.has_token = False

    def _note(self) -> None:
        if self.requested or not self.has_token:
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes Ctrl-C within the block."""
        with _on_sigint(self._note):
            yield
