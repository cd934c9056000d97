"""Names of models on the hub: ORG/REPO or ORG/REPO:QUANT."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

_REFERENCE = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?::(?P<quant>[\w.-]+))?")


@dataclass(frozen=True)
class Reference:
    """A repository, and the quantisation wanted of it; None: the only one, or Q4_K_M."""

    repo: str
    quant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads ORG/REPO[:QUANT]; raises UsageError."""
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text!r} does not name a model on the hub; write ORG/REPO or ORG/REPO:QUANT, e.g. "
                "Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M."
            )
        return cls(found["repo"], found["quant"])

    @classmethod
    def of_argument(cls, model: str | os.PathLike[str]) -> Reference | None:
        """What a command's MODEL argument names if it is no file; None if it can only be meant as a file."""
        text = os.fspath(model)
        if Path(text).exists() or text.endswith(".gguf"):
            return None
        found = _REFERENCE.fullmatch(text)
        # A folder that exists tells that a path was meant, misspelt behind it.
        return None if found is None or Path(text).parent.exists() else cls(found["repo"], found["quant"])

    def __str__(self) -> str:
        return self.repo if self.quant is None else f"{self.repo}:{self.quant}"
