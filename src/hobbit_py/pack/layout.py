"""What a lo file will contain: its header, byte for byte, and where every chunk of rows goes.

Everything is known before the first weight is read. The header therefore also identifies a packing: an unfinished file
that begins with the same one can be continued.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gguf import GGUFValueType

from . import fingerprint as keys
from .fingerprint import Fingerprint
from .imatrix import Imatrix
from .quantize import TensorType, tensor_type_named
from .source import ExpertTensor, ModelExperts
from .types import LoTypes, fitting_type

# A page: direct reads of a whole tensor need no bytes before or behind it.
ALIGNMENT = 4096
_GGUF_VERSION = 3
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION

# Weights quantised at once: 4 MiB as floats. Bounds a thread's memory and how long an interrupt waits; a call still
# takes a hundred times longer than Python needs to make it.
_CHUNK_WEIGHTS = 1 << 20


@dataclass(frozen=True)
class LoTensor:
    """A tensor of the lo file: its source, its type, where its data begins in the finished file."""

    source: ExpertTensor
    type: TensorType
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.type.row_bytes(self.source.n_in)


class Chunk(NamedTuple):
    """Rows of one expert, quantised in one piece."""

    tensor_idx: int
    expert_idx: int
    first_row: int
    n_rows: int


@dataclass(frozen=True)
class LoLayout:
    """The whole lo file: header, padded to where the data begins, tensors, bytes in all."""

    header: bytes
    tensors: tuple[LoTensor, ...]
    n_bytes: int

    def chunks(self) -> list[Chunk]:
        """All chunks in file order; cut the same way whatever the number of threads."""
        return list(self._chunks())

    def _chunks(self) -> Iterator[Chunk]:
        for tensor_idx, tensor in enumerate(self.tensors):
            source = tensor.source
            n_chunk_rows = max(1, _CHUNK_WEIGHTS // source.n_in)
            for expert_idx in range(source.n_expert):
                for first_row in range(0, source.n_out, n_chunk_rows):
                    yield Chunk(tensor_idx, expert_idx, first_row, min(n_chunk_rows, source.n_out - first_row))


def plan_layout(
    model: ModelExperts,
    lo: LoTypes,
    fingerprint: Fingerprint,
    imatrix: Imatrix | None,
    feedback: bool,
    note: Callable[[str], None],
) -> LoLayout:
    """Decides every tensor's type and place; `note` hears once for every kind of matrix that gets another type."""
    types = [tensor_type_named(fitting_type(lo.of(source.kind), source.n_in)) for source in model.tensors]
    _note_other_types(model, lo, types, note)
    header = _Header()
    header.add_string("general.architecture", model.architecture)
    header.add_u32("general.alignment", ALIGNMENT)
    header.add_u32("general.quantization_version", _QUANTIZATION_VERSION)
    header.add_u32(keys.VERSION_KEY, keys.VERSION)
    header.add_string(keys.TYPES_KEY, str(lo))
    header.add_u64s(keys.FILE_BYTES_KEY, fingerprint.file_bytes)
    header.add_string(keys.LAYOUT_KEY, fingerprint.layout)
    header.add_string(keys.SAMPLES_KEY, fingerprint.samples)
    if imatrix is not None:
        header.add_string(keys.IMATRIX_KEY, imatrix.sha256)
        header.add_u32(keys.FEEDBACK_KEY, keys.FEEDBACK_VERSION if feedback else 0)

    offsets = []
    end = 0
    for source, kind in zip(model.tensors, types, strict=True):
        offsets.append(end)
        header.add_tensor(source, kind, end)
        # The last one too: ggml reads a file's data in whole multiples of the alignment.
        end = _aligned(end + kind.row_bytes(source.n_in) * source.n_out * source.n_expert)
    encoded = header.encode()
    begin = len(encoded)
    tensors = tuple(
        LoTensor(source, kind, begin + offset)
        for source, kind, offset in zip(model.tensors, types, offsets, strict=True)
    )
    return LoLayout(encoded, tensors, begin + end)


def _note_other_types(model: ModelExperts, lo: LoTypes, types: list[TensorType], note: Callable[[str], None]) -> None:
    n_layers: dict[tuple[str, str, int], int] = defaultdict(int)
    for source, kind in zip(model.tensors, types, strict=True):
        if kind.name != lo.of(source.kind):
            n_layers[source.kind, kind.name, source.n_in] += 1
    for (matrix_kind, taken, n_in), n in n_layers.items():
        wanted = tensor_type_named(lo.of(matrix_kind))
        note(
            f"The {matrix_kind} matrices of {n} layers become {taken}: their rows of {n_in} weights do not fit the "
            f"blocks of {wanted.block_weights} of {wanted.name}."
        )


class _Header:
    """A GGUF header in the making; the order of additions is the order in the file."""

    def __init__(self) -> None:
        self._pairs: list[bytes] = []
        self._tensors: list[bytes] = []

    def add_string(self, key: str, value: str) -> None:
        self._add(key, GGUFValueType.STRING, _string(value))

    def add_u32(self, key: str, value: int) -> None:
        self._add(key, GGUFValueType.UINT32, struct.pack("<I", value))

    def add_u64s(self, key: str, values: tuple[int, ...]) -> None:
        array = struct.pack(f"<IQ{len(values)}Q", GGUFValueType.UINT64, len(values), *values)
        self._add(key, GGUFValueType.ARRAY, array)

    def add_tensor(self, source: ExpertTensor, kind: TensorType, offset: int) -> None:
        dims = struct.pack("<I3Q", 3, *source.shape)
        self._tensors.append(_string(source.name) + dims + struct.pack("<IQ", kind.id, offset))

    def encode(self) -> bytes:
        begin = struct.pack("<4sIQQ", b"GGUF", _GGUF_VERSION, len(self._tensors), len(self._pairs))
        encoded = b"".join([begin, *self._pairs, *self._tensors])
        return encoded.ljust(_aligned(len(encoded)), b"\0")

    def _add(self, key: str, value_type: GGUFValueType, value: bytes) -> None:
        self._pairs.append(_string(key) + struct.pack("<I", value_type) + value)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
