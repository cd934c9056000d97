"""The native engine of a model's files."""

from __future__ import annotations

import os

from ._host import _core
from .errors import ModelFileError, as_sentence
from .vram import DeviceChoice


def open_engine(
    path: str,
    device: DeviceChoice,
    lo: str | os.PathLike[str] | None,
    hi: str | os.PathLike[str] | None,
) -> _core.Engine:
    """Opens the model and its files of copies, and reads their headers; raises ModelFileError."""
    options = _core.EngineOptions()
    options.inner_device = device.name
    options.is_unified = device.is_unified
    if lo is not None:
        options.lo_path = os.fspath(lo)
    if hi is not None:
        options.hi_path = os.fspath(hi)
    try:
        return _core.Engine(path, options)
    except _core.StoreError as error:
        raise ModelFileError(as_sentence(str(error))) from None
    except OSError as error:
        raise ModelFileError(as_sentence(error.strerror or str(error))) from None
