"""What `hobbit pack` writes: the bytes of stock llama.cpp's own quantiser, for every type and family."""

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from gguf import ReaderTensor
from pack_support import expert_tensors, write_imatrix
from support import ModelFactory
from tiny_models import QUANT_TYPES, split_model, write_model

from hobbit_py import _core
from hobbit_py.errors import ModelFileError
from hobbit_py.pack import LO_TYPES, find_lo, pack, verify
from hobbit_py.pack.quantize import dequantize, quantize, requires_importance, tensor_type, tensor_type_named

LLAMA = "llama"
WIDE_DOWN = {"down_quant": "Q2_K"}  # makes write_model choose rows of 256 weights


def expected_bytes(source: ReaderTensor, type_name: str, importance: npt.NDArray[np.float32] | None = None) -> bytes:
    """Each expert dequantised and quantised whole, in one call."""
    n_in, n_out, n_expert = (int(n) for n in source.shape)
    experts = np.ascontiguousarray(source.data).reshape(n_expert, -1).view(np.uint8)
    packed = b""
    for expert_idx in range(n_expert):
        weights = dequantize(experts[expert_idx].copy(), tensor_type(int(source.tensor_type))).reshape(n_out, n_in)
        row = None if importance is None else importance[expert_idx].copy()
        packed += quantize(weights, tensor_type_named(type_name), row).tobytes()
    return packed


def stock_quantized(source: Path, out: Path, ftype: int, importance: dict[str, npt.NDArray[np.float32]]) -> Path:
    """The whole model, quantised by llama.cpp."""
    entry_type = llama_cpp.llama_cpp.llama_model_imatrix_data
    entries = (entry_type * (len(importance) + 1))()
    for entry, (name, numbers) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = numbers.size
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.allow_requantize, params.nthread = ftype, True, True, 1
    if importance:
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params) == 0
    return out


@pytest.mark.parametrize(
    ("lo", "ftype", "hi", "with_imatrix"),
    [
        ("Q2_K", llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K, "F16", False),
        ("Q3_K", llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_S, "Q8_0", True),
        ("Q4_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "BF16", True),
        ("IQ4_XS", llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_XS, "F32", True),
    ],
)
def test_experts_equal_those_of_llama_cpps_quantiser(
    tmp_path: Path, tiny_model: ModelFactory, lo: str, ftype: int, hi: str, with_imatrix: bool
) -> None:
    model = tiny_model(LLAMA, quant=hi)  # down projections have rows of 128 weights: the fall-backs are compared too
    importance = write_imatrix(tmp_path / "imatrix.gguf", model) if with_imatrix else {}
    stock = expert_tensors(stock_quantized(model, tmp_path / "stock.gguf", ftype, importance))
    packed = expert_tensors(
        pack(model, lo, tmp_path / "lo.gguf", imatrix=tmp_path / "imatrix.gguf" if with_imatrix else None)
    )
    assert list(packed) == list(expert_tensors(model))
    for name, tensor in packed.items():
        assert tensor.tensor_type == stock[name].tensor_type
        assert tensor.shape.tolist() == stock[name].shape.tolist()
        assert tensor.data.tobytes() == stock[name].data.tobytes()


@pytest.mark.parametrize("lo", LO_TYPES)
def test_every_type_as_lo(tmp_path: Path, tiny_model: ModelFactory, lo: str) -> None:
    model = tiny_model(LLAMA, quant="F16", n_layer=1, n_expert=2, **WIDE_DOWN)
    importance: dict[str, npt.NDArray[np.float32]] = {}
    imatrix = None
    if requires_importance(tensor_type_named(lo)):
        imatrix = tmp_path / "imatrix.gguf"
        importance = write_imatrix(imatrix, model)
    packed = expert_tensors(pack(model, lo, tmp_path / "lo.gguf", imatrix=imatrix))
    for name, source in expert_tensors(model).items():
        assert packed[name].tensor_type.name == lo
        assert packed[name].data.tobytes() == expected_bytes(source, lo, importance.get(name))


@pytest.mark.parametrize("hi", QUANT_TYPES)
def test_every_type_as_hi(tmp_path: Path, tiny_model: ModelFactory, hi: str) -> None:
    model = tiny_model(LLAMA, quant="Q8_0", experts_quant=hi, n_layer=1, n_expert=2)
    packed = expert_tensors(pack(model, "Q4_0", tmp_path / "lo.gguf"))
    for name, source in expert_tensors(model).items():
        assert packed[name].data.tobytes() == expected_bytes(source, "Q4_0")


@pytest.mark.parametrize("arch", ["deepseek2-fused", "llama-ungated", "gpt-oss", "glm4moe"])
def test_families_types_by_layer_and_the_runtime(tmp_path: Path, tiny_model: ModelFactory, arch: str) -> None:
    model = tiny_model(arch, n_layer=2, experts_quant=("Q8_0", "F16"), down_quant=("Q5_0", "Q8_0"))
    lo_path = pack(model, "Q4_0,down=Q4_1", tmp_path / "lo.gguf")
    packed = expert_tensors(lo_path)
    sources = expert_tensors(model)
    assert list(packed) == list(sources)
    for name, source in sources.items():
        assert packed[name].data_offset % 4096 == 0
        assert packed[name].data.tobytes() == expected_bytes(source, "Q4_1" if "_down_" in name else "Q4_0")
    verify([model], lo_path)
    options = _core.EngineOptions()
    options.lo_path = str(lo_path)
    assert _core.Engine(str(model), options).has_lo


def test_importance_of_every_expert(tmp_path: Path, tiny_model: ModelFactory) -> None:
    model = tiny_model(LLAMA, n_layer=1)
    importance = write_imatrix(tmp_path / "imatrix.gguf", model)
    with_imatrix = pack(model, "Q4_K", tmp_path / "a.gguf", imatrix=tmp_path / "imatrix.gguf")
    for name, source in expert_tensors(model).items():
        packed = expert_tensors(with_imatrix)[name]
        assert packed.data.tobytes() == expected_bytes(source, packed.tensor_type.name, importance[name])
    assert with_imatrix.read_bytes() != pack(model, "Q4_K", tmp_path / "b.gguf").read_bytes()


def test_threads_and_chunks_change_nothing(
    tmp_path: Path, tiny_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(LLAMA)
    one = pack(model, "Q3_K", tmp_path / "one.gguf", n_threads=1)
    monkeypatch.setattr("hobbit_py.pack.layout._CHUNK_WEIGHTS", 1000)
    many = pack(model, "Q3_K", tmp_path / "many.gguf", n_threads=7)
    assert many.read_bytes() == one.read_bytes()


def test_split_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", LLAMA)
    parts = split_model(model, 3)
    whole_lo, split_lo = pack(model, "Q4_0", tmp_path / "whole.gguf"), pack(parts[0], "Q4_0")
    assert split_lo == tmp_path / "model.lo-Q4_0.gguf" == find_lo(parts[0])
    for name, tensor in expert_tensors(whole_lo).items():
        assert expert_tensors(split_lo)[name].data.tobytes() == tensor.data.tobytes()
    verify(parts, split_lo)
    with pytest.raises(ModelFileError, match="packed from 3 files"):
        verify([model], split_lo)
    parts[1].unlink()
    with pytest.raises(ModelFileError, match="part 2 of 3"):
        pack(parts[0], "Q4_0")


def test_types_that_do_not_fit_are_noted_once_for_each_kind(tmp_path: Path, tiny_model: ModelFactory) -> None:
    notes: list[str] = []
    packed = expert_tensors(pack(tiny_model(LLAMA), "Q2_K", tmp_path / "lo.gguf", note=notes.append))
    assert packed["blk.0.ffn_down_exps.weight"].tensor_type.name == "Q4_0"
    assert packed["blk.0.ffn_up_exps.weight"].tensor_type.name == "Q2_K"
    assert notes == [
        "The down matrices of 2 layers become Q4_0: their rows of 128 weights do not fit the blocks of 256 of Q2_K."
    ]


def test_progress_rises_to_one(tmp_path: Path, tiny_model: ModelFactory) -> None:
    fractions: list[float] = []
    pack(tiny_model(LLAMA), "Q4_0", tmp_path / "lo.gguf", progress=fractions.append)
    assert fractions[0] == 0.0
    assert fractions[-1] == pytest.approx(1.0)
    assert fractions == sorted(fractions)
    assert len(fractions) > 10
