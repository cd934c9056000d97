"""What a model file holds, from its headers: the experts by kind and type, and the lo copies beside it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ModelFileError
from .pack.fingerprint import verify
from .pack.gguf_file import open_header
from .pack.paths import find_los
from .pack.quantize import tensor_type
from .pack.source import ExpertTensor, ModelExperts, open_any_model, open_model

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class TensorGroup:
    """The expert tensors of one kind, type and shape; sizes in bytes."""

    kind: str
    type: str
    n_in: int
    n_out: int
    n_expert: int
    layers: tuple[int, ...]
    matrix_bytes: int
    """One expert's matrix."""
    total_bytes: int


@dataclass(frozen=True)
class LoCopy:
    """A file named as a lo copy of the model; `problem` says why it cannot be used, or is empty."""

    path: Path
    types: str
    n_bytes: int
    problem: str


@dataclass(frozen=True)
class Inspection:
    """A model's files and experts; sizes in bytes."""

    paths: tuple[Path, ...]
    file_bytes: int
    architecture: str
    n_expert_used: int
    groups: tuple[TensorGroup, ...]
    expert_bytes: int
    dense_bytes: int
    dense_types: dict[str, int]
    """Bytes of the other tensors by type."""
    layers_that_differ: dict[int, str]
    """Layers whose experts are of other types than most layers' are, with those types."""
    lo_copies: tuple[LoCopy, ...]


def inspect_model(path: str | os.PathLike[str]) -> Inspection:
    """Reads the headers of a model, all parts of a split one; for a model without experts `groups` is empty.

    Raises ModelFileError.
    """
    path = Path(path)
    model = open_any_model(path)
    dense_types: Counter[str] = Counter()
    n_expert_used = 0
    names = {tensor.name for tensor in model.tensors}
    for part in model.paths:
        with open_header(part) as header:
            n_expert_used = n_expert_used or header.get_u32(f"{model.architecture}.expert_used_count") or 0
            for tensor in header.tensors():
                if tensor.name not in names:
                    dense_types[tensor_type(tensor.type_id).name] += tensor.n_bytes
    return Inspection(
        paths=model.paths,
        file_bytes=sum(model.file_bytes),
        architecture=model.architecture,
        n_expert_used=n_expert_used,
        groups=_groups(model.tensors),
        expert_bytes=model.n_bytes,
        dense_bytes=dense_types.total(),
        dense_types=dict(dense_types.most_common()),
        layers_that_differ=_layers_that_differ(model.tensors),
        lo_copies=tuple(_lo_copy(model, lo) for lo in find_los(path)) if model.tensors else (),
    )


def _groups(tensors: Sequence[ExpertTensor]) -> tuple[TensorGroup, ...]:
    members: dict[tuple[str, str, int, int, int], list[ExpertTensor]] = defaultdict(list)
    for tensor in tensors:
        members[tensor.kind, tensor.type.name, tensor.n_in, tensor.n_out, tensor.n_expert].append(tensor)
    return tuple(
        TensorGroup(
            *key,
            layers=tuple(sorted(_layer_of(tensor) for tensor in group)),
            matrix_bytes=group[0].n_bytes // group[0].n_expert,
            total_bytes=sum(tensor.n_bytes for tensor in group),
        )
        for key, group in members.items()
    )


def _layers_that_differ(tensors: Sequence[ExpertTensor]) -> dict[int, str]:
    types: dict[int, dict[str, str]] = defaultdict(dict)
    for tensor in tensors:
        types[_layer_of(tensor)][tensor.kind] = tensor.type.name
    described = {
        layer: ", ".join(f"{kind} {name}" for kind, name in sorted(kinds.items())) for layer, kinds in types.items()
    }
    if not described:
        return {}
    usual, _ = Counter(described.values()).most_common(1)[0]
    return {layer: text for layer, text in sorted(described.items()) if text != usual}


def _layer_of(tensor: ExpertTensor) -> int:
    found = _LAYER.match(tensor.name)
    assert found is not None
    return int(found[1])


def _lo_copy(model: ModelExperts, path: Path) -> LoCopy:
    try:
        lo = open_model(path)
        verify(model.paths, path)
    except ModelFileError as error:
        return LoCopy(path, "", path.stat().st_size, str(error))
    types = Counter(tensor.type.name for tensor in lo.tensors)
    return LoCopy(path, ", ".join(name for name, _ in types.most_common()), path.stat().st_size, "")
