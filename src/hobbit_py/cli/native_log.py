"""Keeps llama.cpp's own log lines off the user's terminal, and the errors among them for our messages."""

from __future__ import annotations

import ctypes
import functools

_LEVEL_ERROR = 4
_LEVEL_CONTINUES = 5
_MAX_PIECES = 200


class NativeErrors:
    """The first errors that llama.cpp and ggml logged."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._level = 0

    def log(self, level: int, text: bytes, _user_data: object = None) -> None:
        """Takes one call of ggml's log callback; a line may come in several pieces."""
        if level != _LEVEL_CONTINUES:
            self._level = level
        if self._level == _LEVEL_ERROR and len(self._pieces) < _MAX_PIECES:
            self._pieces.append(text.decode("utf-8", errors="replace"))

    def cause(self) -> str | None:
        """Returns the first error line, less the C function that logged it; later lines follow from the first."""
        lines = [line.strip() for line in "".join(self._pieces).splitlines() if line.strip()]
        if not lines:
            return None
        function, found, reason = lines[0].partition(": ")
        return reason if found and function.isidentifier() else lines[0]


@functools.cache
def keep_native_errors() -> NativeErrors:
    """Sends llama.cpp's log into the returned NativeErrors, and nothing to stderr, until the process ends.

    llama_cpp's verbose=False is not enough: its table of log levels is older than ggml's, so warnings pass.
    """
    import llama_cpp

    errors = NativeErrors()
    callback = llama_cpp.llama_log_callback(errors.log)
    # ctypes frees a callback that Python forgets, while llama.cpp would go on calling it.
    _callbacks_in_use.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    return errors


_callbacks_in_use: list[object] = []
