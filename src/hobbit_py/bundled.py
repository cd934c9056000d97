"""The model and the text that come with the package."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ModelFileError

_FILE_NAME = "mini-mixtral-Q8_0.gguf"
_SAMPLE_NAME = "sample.txt"


def bundled_model() -> Path:
    """Returns the path of the bundled model; raises ModelFileError if the installation lacks it."""
    # An mmap-free loader needs a real path, so the package is never run from a zip file.
    path = Path(__file__).parent / "data" / _FILE_NAME
    if not path.is_file():
        raise ModelFileError(f"The bundled model is missing at {path}; install hobbit_py again or name a model file.")
    return path


def is_bundled(path: str | os.PathLike[str]) -> bool:
    """Whether this is the file that bundled_model() names; whatever is kept of it, is not kept in the package."""
    return Path(path).name == _FILE_NAME and Path(path).resolve().parent == (Path(__file__).parent / "data").resolve()


def sample_text() -> Path:
    """Returns the path of the bundled text, pages of public-domain novels; raises ModelFileError if it is missing."""
    path = Path(__file__).parent / "data" / _SAMPLE_NAME
    if not path.is_file():
        raise ModelFileError(f"The bundled text is missing at {path}; install hobbit_py again or give one with --text.")
    return path
