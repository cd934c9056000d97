"""Writes a tiny model of a given family to a GGUF file."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter

from tiny_models.families import FAMILIES
from tiny_models.quantize import block_size, quantize
from tiny_models.spec import Dims, MetadataValue, Role, TensorSpec
from tiny_models.tokenizer import add_tokenizer

LayerTypes = str | Sequence[str]  # one type for all layers, or one for each


def write_model(
    path: Path,
    arch: str,
    *,
    quant: str = "Q8_0",
    seed: int = 0,
    n_layer: int | None = None,
    n_expert: int | None = None,
    n_expert_used: int | None = None,
    experts_quant: LayerTypes | None = None,
    down_quant: LayerTypes | None = None,
    chat_template: str | None = None,
) -> Path:
    """Writes a random-weight model and returns `path`.

    `arch` is one of ARCHITECTURES or VARIANTS; sizes left out are the family's defaults. `quant` is the type of the
    dense weights (a dense matrix whose rows do not fit its blocks is stored as Q8_0), `experts_quant` that of the
    experts (default: `quant`), `down_quant` that of their down projections (default: `experts_quant`). Weights before
    quantisation depend on `seed`, the tensor's name and its shape alone.
    """
    family = FAMILIES[arch]
    n_layer = n_layer or family.n_layer
    expert_types = _per_layer(experts_quant or quant, n_layer)
    down_types = _per_layer(down_quant or expert_types, n_layer)
    dims = Dims(
        n_layer=n_layer,
        n_expert=family.n_expert if n_expert is None else n_expert,
        n_expert_used=family.n_expert_used if n_expert_used is None else n_expert_used,
        # Half of n_embd where the blocks allow: matrices that are not square show a swapped dimension.
        n_ff_exp=max(128, *(block_size(name) for name in down_types)),
    )
    spec = family.describe(dims)

    writer = GGUFWriter(path, spec.arch)
    writer.add_name(f"tiny {arch}")
    for key, value in spec.metadata.items():
        _add_metadata(writer, f"{spec.arch}.{key}", value)
    add_tokenizer(writer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for tensor in spec.tensors:
        type_name = _type_of(tensor, quant, expert_types, down_types)
        writer.add_tensor(
            tensor.name, quantize(_weights(tensor, seed), type_name), raw_dtype=GGMLQuantizationType[type_name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _per_layer(types: LayerTypes, n_layer: int) -> list[str]:
    per_layer = [types] * n_layer if isinstance(types, str) else list(types)
    if len(per_layer) != n_layer:
        raise ValueError(f"{len(per_layer)} types given for {n_layer} layers")
    return per_layer


def _type_of(tensor: TensorSpec, quant: str, expert_types: Sequence[str], down_types: Sequence[str]) -> str:
    if tensor.role is Role.PLAIN:
        return "F32"
    if tensor.role is Role.DENSE:
        return quant if tensor.shape[-1] % block_size(quant) == 0 else "Q8_0"
    assert tensor.layer_idx is not None
    return (down_types if tensor.role is Role.EXPERT_DOWN else expert_types)[tensor.layer_idx]


def _weights(tensor: TensorSpec, seed: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    weights = rng.standard_normal(tensor.shape, dtype=np.float32)
    return weights * np.float32(tensor.std) + np.float32(tensor.mean)


def _add_metadata(writer: GGUFWriter, key: str, value: MetadataValue) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
