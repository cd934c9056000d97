"""Fixtures shared by all tests: tiny models, written once a session, and what the stock library computes with them."""

import os

# libgomp reads this when it is loaded. Spinning threads of two models in one process would take each other's cores.
os.environ["GOMP_SPINCOUNT"] = "0"

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import Logits, ModelFactory, StockReference, stock_logits
from tiny_models import write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFactory:
    """`tiny_model(arch, **options)` is the path of that model; see tiny_models.write_model for the options.

    Options that are sequences must be tuples. The file is shared by the session: do not change it.
    """
    folder = tmp_path_factory.mktemp("models")
    paths: dict[object, Path] = {}

    def model_path(arch: str, **options: Any) -> Path:
        key = (arch, frozenset(options.items()))
        if key not in paths:
            paths[key] = write_model(folder / f"{arch}-{len(paths)}.gguf", arch, **options)
        return paths[key]

    return model_path


@pytest.fixture(scope="session")
def stock_reference() -> StockReference:
    """`support.stock_logits` that computes each case once a session."""

    @cache
    def cached(
        path: Path, prompt: tuple[int, ...], decode: tuple[int, ...], options: tuple[tuple[str, int], ...]
    ) -> Logits:
        logits = stock_logits(path, prompt, decode, **dict(options))
        logits.setflags(write=False)
        return logits

    def reference(path: Path, prompt: Sequence[int], decode: Sequence[int] = (), **options: int) -> Logits:
        return cached(path, tuple(prompt), tuple(decode), tuple(sorted(options.items())))

    return reference
