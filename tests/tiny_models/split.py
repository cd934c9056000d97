"""Splits a GGUF into parts, named and numbered as llama.cpp expects them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter


def split_model(path: Path, n_parts: int) -> list[Path]:
    """Writes `<stem>-00001-of-0000N.gguf` ... beside `path`, tensors dealt out in file order; returns the parts' paths.

    As in llama.cpp's gguf-split the first part has all metadata, the others only what numbers them.
    """
    reader = GGUFReader(path)
    n_tensors = len(reader.tensors)
    if not 1 <= n_parts <= n_tensors:
        raise ValueError(f"cannot split {n_tensors} tensors into {n_parts} parts")
    arch = str(reader.fields["general.architecture"].contents())
    bounds = np.linspace(0, n_tensors, n_parts + 1).astype(int)
    parts = []
    for part_idx, (begin, end) in enumerate(pairwise(bounds)):
        part_path = path.with_name(f"{path.stem}-{part_idx + 1:05d}-of-{n_parts:05d}.gguf")
        writer = GGUFWriter(part_path, arch)
        if part_idx == 0:
            _copy_metadata(reader, writer)
        writer.add_uint16("split.no", part_idx)
        writer.add_uint16("split.count", n_parts)
        writer.add_int32("split.tensors.count", n_tensors)
        for tensor in reader.tensors[begin:end]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        parts.append(part_path)
    return parts


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    for field in reader.fields.values():
        # The writer makes the file's own header and architecture.
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
