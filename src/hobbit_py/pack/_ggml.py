"""The ggml that llama_cpp has mapped, after the package's version gates, whose numbers and structures are used here."""

from __future__ import annotations

from .. import _host  # noqa: F401  (the gates; also sets what llama_cpp's libraries look at when they are loaded)

# isort: split
from llama_cpp._ggml import libggml

__all__ = ["libggml"]
