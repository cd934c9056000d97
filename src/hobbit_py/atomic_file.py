"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file under another name and renames it: whoever looks finds the old one or the new one.

    Raises OSError, and what `write` raises; neither leaves anything behind.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """As write_atomically, for text in UTF-8."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)
