"""Takes a GGUF file apart so that it can be put together wrong: every field, and where it lies in the bytes.

Written by hand: gguf's own reader and writer refuse, or put right, what a damaged file is made of.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {
    U8: "<B",
    I8: "<b",
    U16: "<H",
    I16: "<h",
    U32: "<I",
    I32: "<i",
    F32: "<f",
    BOOL: "<?",
    U64: "<Q",
    I64: "<q",
    F64: "<d",
}
ALIGNMENT = 32

Scalar = int | float | bool | bytes


@dataclass
class Entry:
    """A key of the metadata; `items` are its elements if `element_type` is set, else its one value."""

    key: bytes
    value_type: int
    items: list[Scalar]
    element_type: int | None = None


@dataclass
class Tensor:
    """A line of the tensor table, and its bytes. `offset` is what the table says, within the data."""

    name: bytes
    ne: list[int]
    type_id: int
    offset: int
    data: bytes


@dataclass
class Gguf:
    entries: list[Entry]
    tensors: list[Tensor]
    version: int = 3

    def find(self, key: bytes) -> Entry | None:
        return next((entry for entry in self.entries if entry.key == key), None)

    def lay_out(self) -> None:
        """Gives the tensors the offsets that follow from their bytes."""
        offset = 0
        for tensor in self.tensors:
            tensor.offset = offset
            offset += _padded(len(tensor.data))


@dataclass(frozen=True)
class Field:
    """`kind`: count, type, number, text, dim, offset or data; `part`: header, metadata, table or data."""

    part: str
    kind: str
    begin: int
    end: int


@dataclass
class Written:
    content: bytearray = field(default_factory=bytearray)
    fields: list[Field] = field(default_factory=list)

    def put(self, part: str, kind: str, data: bytes) -> None:
        begin = len(self.content)
        self.content += data
        self.fields.append(Field(part, kind, begin, len(self.content)))

    def put_text(self, part: str, text: bytes) -> None:
        self.put(part, "count", struct.pack("<Q", len(text)))
        self.put(part, "text", text)

    def put_scalar(self, value_type: int, value: Scalar) -> None:
        if value_type == STRING:
            assert isinstance(value, bytes)
            self.put_text("metadata", value)
        else:
            self.put("metadata", "number", struct.pack(FORMATS[value_type], value))

    def pad(self, part: str) -> None:
        self.put(part, "padding", bytes(_padded(len(self.content)) - len(self.content)))

    def in_part(self, part: str) -> list[Field]:
        return [f for f in self.fields if f.part == part and f.end > f.begin]

    def of_kind(self, *kinds: str) -> list[Field]:
        return [f for f in self.fields if f.kind in kinds and f.end > f.begin]


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def write(gguf: Gguf) -> Written:
    out = Written()
    out.put("header", "text", b"GGUF")
    out.put("header", "number", struct.pack("<I", gguf.version))
    out.put("header", "count", struct.pack("<Q", len(gguf.tensors)))
    out.put("header", "count", struct.pack("<Q", len(gguf.entries)))
    for entry in gguf.entries:
        out.put_text("metadata", entry.key)
        out.put("metadata", "type", struct.pack("<I", entry.value_type))
        item_type = entry.value_type
        if entry.element_type is not None:
            item_type = entry.element_type
            out.put("metadata", "type", struct.pack("<I", item_type))
            out.put("metadata", "count", struct.pack("<Q", len(entry.items)))
        for item in entry.items:
            out.put_scalar(item_type, item)
    for tensor in gguf.tensors:
        out.put_text("table", tensor.name)
        out.put("table", "count", struct.pack("<I", len(tensor.ne)))
        for n in tensor.ne:
            out.put("table", "dim", struct.pack("<Q", n % (1 << 64)))
        out.put("table", "type", struct.pack("<I", tensor.type_id))
        out.put("table", "offset", struct.pack("<Q", tensor.offset % (1 << 64)))
    out.pad("table")
    for tensor in gguf.tensors:
        out.put("data", "data", tensor.data)
        out.pad("data")
    return out


class _Cursor:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def take(self, n: int) -> bytes:
        taken = self._content[self.position : self.position + n]
        assert len(taken) == n, "not a sound GGUF"
        self.position += n
        return taken

    def number(self, value_type: int) -> Scalar:
        text = FORMATS[value_type]
        return struct.unpack(text, self.take(struct.calcsize(text)))[0]

    def count(self, value_type: int = U64) -> int:
        return int(self.number(value_type))

    def scalar(self, value_type: int) -> Scalar:
        return self.take(self.count()) if value_type == STRING else self.number(value_type)


def read(content: bytes) -> Gguf:
    """A sound file of one part with the usual alignment."""
    cursor = _Cursor(content)
    assert cursor.take(4) == b"GGUF"
    version, n_tensors, n_entries = cursor.count(U32), cursor.count(), cursor.count()
    entries = []
    for _ in range(n_entries):
        key, value_type = cursor.take(cursor.count()), cursor.count(U32)
        if value_type == ARRAY:
            element_type = cursor.count(U32)
            items = [cursor.scalar(element_type) for _ in range(cursor.count())]
            entries.append(Entry(key, value_type, items, element_type))
        else:
            entries.append(Entry(key, value_type, [cursor.scalar(value_type)]))
    lines = []
    for _ in range(n_tensors):
        name = cursor.take(cursor.count())
        ne = [cursor.count() for _ in range(cursor.count(U32))]
        lines.append((name, ne, cursor.count(U32), cursor.count()))
    begin = _padded(cursor.position)
    ends = [offset for *_, offset in lines[1:]] + [len(content) - begin]
    tensors = [
        Tensor(name, ne, type_id, offset, content[begin + offset : begin + end])
        for (name, ne, type_id, offset), end in zip(lines, ends, strict=True)
    ]
    return Gguf(entries, tensors, version)
