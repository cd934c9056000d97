"""The errors a user may meet. Each message is one sentence: what, where, found, expected, what to do.

Every class also derives from the built-in error that callers of llama_cpp.Llama already catch.
"""

from __future__ import annotations


class HobbitError(Exception):
    """Base of the package's errors; exit_code is what the command line ends with."""

    exit_code = 1


class UsageError(HobbitError, ValueError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class ModelFileError(HobbitError, ValueError):
    """A model file is missing, unreadable, damaged or of a kind that cannot be run."""

    exit_code = 2


class MemoryBudgetError(HobbitError, ValueError):
    """The memory granted is below what the model needs; floor_bytes is the smallest budget that works."""

    exit_code = 2

    def __init__(self, message: str, floor_bytes: int) -> None:
        super().__init__(message)
        self.floor_bytes = floor_bytes

    def __reduce__(self) -> tuple[type[MemoryBudgetError], tuple[str, int]]:
        return type(self), (str(self), self.floor_bytes)


class ReadError(HobbitError, OSError):
    """The drive failed while a token was computed; errno and filename say how and where."""

    def __init__(self, message: str, errno: int, filename: str) -> None:
        super().__init__(errno, message, filename)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[ReadError], tuple[str, int, str]]:
        return type(self), (self.message, self.errno or 0, str(self.filename))


class HostError(HobbitError, ImportError):
    """The installed llama-cpp-python, or the ggml it loaded, is not one this package works with."""


def as_sentence(message: str) -> str:
    """The message with a full stop, which errors of the core lack."""
    return message if message.endswith(".") else f"{message}."
