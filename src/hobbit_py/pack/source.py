"""The experts of a model on disk: which tensors hold them, and where in which file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import _core
from ..errors import ModelFileError, ReadError
from .gguf_file import open_header
from .quantize import Bytes, TensorType, tensor_type

_EXPERT_NAME = re.compile(r"blk\.(0|[1-9]\d*)\.ffn_(gate|up|down|gate_up)_exps\.weight")


@dataclass(frozen=True)
class ExpertTensor:
    """One kind of matrix of all experts of a layer: n_expert matrices of n_out rows of n_in weights."""

    name: str
    kind: str
    type: TensorType
    n_in: int
    n_out: int
    n_expert: int
    file_idx: int
    offset: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """ggml's order: n_in, n_out, n_expert."""
        return self.n_in, self.n_out, self.n_expert

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.type.row_bytes(self.n_in)

    @property
    def n_bytes(self) -> int:
        """Bytes of all experts."""
        return self.row_bytes * self.n_out * self.n_expert


@dataclass(frozen=True)
class ModelExperts:
    """A model's files and its expert tensors in file order, part by part."""

    paths: tuple[Path, ...]
    file_bytes: tuple[int, ...]
    architecture: str
    tensors: tuple[ExpertTensor, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all expert tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)


def open_model(path: Path) -> ModelExperts:
    """Checks a model, or a lo copy, as the runtime does when it loads one; `path` is the first part of a split one.

    Raises ModelFileError, also for a model without experts.
    """
    model = open_any_model(path)
    if not model.tensors:
        raise ModelFileError(f"{str(path)!r} has no expert tensors: it is not a Mixture-of-Experts model.")
    return model


def open_any_model(path: Path) -> ModelExperts:
    """As open_model, for a model without experts too: it has no expert tensors."""
    try:
        return read_experts(_core.Engine(os.fspath(path), _core.EngineOptions()).paths)
    except (_core.StoreError, OSError) as error:
        message = str(error)
        raise ModelFileError(message if message.endswith(".") else f"{message}.") from None


def read_experts(paths: Sequence[str | os.PathLike[str]]) -> ModelExperts:
    """Reads the headers of all files of a model that was checked before."""
    files = tuple(Path(path) for path in paths)
    architecture = ""
    tensors: list[ExpertTensor] = []
    for file_idx, path in enumerate(files):
        with open_header(path) as header:
            architecture = architecture or header.get_string("general.architecture") or ""
            for tensor in header.tensors():
                match = _EXPERT_NAME.fullmatch(tensor.name)
                if match is not None:
                    kind = tensor_type(tensor.type_id)
                    tensors.append(ExpertTensor(tensor.name, match[2], kind, *tensor.ne[:3], file_idx, tensor.offset))
    return ModelExperts(files, tuple(path.stat().st_size for path in files), architecture, tuple(tensors))


class ExpertFiles:
    """The model's files, open for reads from any thread. A context manager."""

    def __init__(self, model: ModelExperts) -> None:
        self._paths = model.paths
        self._fds: list[int] = []

    def __enter__(self) -> ExpertFiles:
        try:
            for path in self._paths:
                self._fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self.__exit__()
            raise ReadError(
                f"{error.filename!r} cannot be opened: {error.strerror}.", error.errno or 0, error.filename
            ) from None
        return self

    def __exit__(self, *_exception: object) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def read_into(self, file_idx: int, offset: int, buffer: Bytes) -> None:
        """Fills the buffer from that offset of one file; ReadError if it cannot."""
        view = buffer.data
        while view:
            try:
                n = os.preadv(self._fds[file_idx], [view], offset)
            except OSError as error:
                raise self._error(file_idx, offset, error.strerror or str(error), error.errno or 0) from error
            if n == 0:
                raise self._error(file_idx, offset, "the file ends there, was it changed?", 0)
            view = view[n:]
            offset += n

    def _error(self, file_idx: int, offset: int, reason: str, errno: int) -> ReadError:
        path = str(self._paths[file_idx])
        return ReadError(f"{path!r} cannot be read at offset {offset}: {reason.rstrip('.')}.", errno, path)
