"""Writes a model whose experts are the lo copies of another one: what mixed precision computes with these alone.

python scripts/gpu/whole_lo.py model.gguf model.lo-IQ4_XS.gguf whole.gguf
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import gguf


def main(arguments: Sequence[str]) -> int:
    model, lo, out = (Path(argument) for argument in arguments)
    source = gguf.GGUFReader(model)
    experts = {tensor.name: tensor for tensor in gguf.GGUFReader(lo).tensors}
    tensors = [experts.get(tensor.name, tensor) for tensor in source.tensors]
    writer = gguf.GGUFWriter(out, source.fields["general.architecture"].contents())
    for field in source.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue  # written with the header
        item_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=item_type)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
