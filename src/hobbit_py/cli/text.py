"""Text on its way to the terminal."""

from __future__ import annotations

import codecs
import sys
import unicodedata


class Utf8Stream:
    """Decodes UTF-8 that arrives in pieces; bytes that can never become a character turn into U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, piece: bytes, *, final: bool = False) -> str:
        """Returns the characters that are complete now; final=True also ends one that is not."""
        return self._decoder.decode(piece, final)


def for_terminal(text: str) -> str:
    """Drops control characters but newline and tab: a model must not move the cursor or retitle the window."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")


def write_out(text: str) -> None:
    """Writes text to stdout at once, unchanged unless stdout is a terminal."""
    sys.stdout.write(for_terminal(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
