"""The wrong model, damaged files and bad usage: each is told in one sentence."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pack_support import expert_tensors
from support import ModelFactory
from tiny_models import write_model

from hobbit_py import cli
from hobbit_py.errors import HobbitError, ModelFileError, ReadError, UsageError
from hobbit_py.pack import find_lo, pack, verify, writer

LLAMA = "llama"


def test_copy_of_another_model(tmp_path: Path, tiny_model: ModelFactory) -> None:
    model = tiny_model(LLAMA)
    lo = pack(model, "Q4_0", tmp_path / "lo.gguf")
    verify([model], lo)
    with pytest.raises(ModelFileError, match="of the same layout with other weights"):
        verify([tiny_model(LLAMA, seed=1)], lo)
    with pytest.raises(ModelFileError, match=r"packed from a file of \d+ bytes, found a file of \d+ bytes"):
        verify([tiny_model(LLAMA, quant="F16")], lo)
    with pytest.raises(ModelFileError, match=r"blk.0.ffn_\w+_exps.weight, expected shape \[\d+, \d+, 4\], found"):
        verify([tiny_model(LLAMA, n_expert=4)], lo)
    with pytest.raises(ModelFileError, match=r"blk\.2\.ffn_\w+_exps\.weight, expected shape .*, found none"):
        verify([tiny_model(LLAMA, n_layer=3)], lo)


def test_same_size_other_layout(tmp_path: Path, tiny_model: ModelFactory) -> None:
    model = tiny_model(LLAMA, experts_quant=("Q4_0", "Q5_0"))
    swapped = tiny_model(LLAMA, experts_quant=("Q5_0", "Q4_0"))
    assert model.stat().st_size == swapped.stat().st_size
    lo = pack(model, "Q4_0", tmp_path / "lo.gguf")
    with pytest.raises(ModelFileError, match="other types or places"):
        verify([swapped], lo)


def test_damaged_copies(tmp_path: Path, tiny_model: ModelFactory) -> None:
    model = tiny_model(LLAMA)
    lo = pack(model, "Q4_0", tmp_path / "lo.gguf")
    data = lo.read_bytes()
    # A hole where the number is: not a version that this one knows.
    version_at = data.index(b"hobbit.pack.version") + len(b"hobbit.pack.version") + 4
    cases = {
        data[:-4096]: "is truncated: tensor",
        data[:2000]: "damaged, truncated",
        b"": "is empty",
        b"GGML" + data[4:]: "not a GGUF",
        data[:version_at] + b"\7" + data[version_at + 1 :]: "lo copy of version 7",
        data.replace(b"source.samples_sha256", b"source.zamples_sha256"): "does not say which model",
    }
    for content, reason in cases.items():
        lo.write_bytes(content)
        with pytest.raises(ModelFileError, match=reason) as raised:
            verify([model], lo)
        assert "\n" not in str(raised.value)
    lo.unlink()
    with pytest.raises(ModelFileError):
        verify([model], lo)


def test_a_users_own_quantisation_is_checked_for_shapes_alone(tiny_model: ModelFactory) -> None:
    model = tiny_model(LLAMA)
    verify([model], tiny_model(LLAMA, quant="Q4_0"))
    with pytest.raises(ModelFileError, match="expected shape"):
        verify([model], tiny_model(LLAMA, quant="Q4_0", n_expert=4))
    with pytest.raises(ModelFileError, match="has no expert tensors"):
        verify([model], tiny_model("llama-dense"))


def test_only_a_lo_copy_is_replaced(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", LLAMA)
    before = model.read_bytes()
    other = tmp_path / "notes.txt"
    other.write_text("keep me")
    for out in (model, other):
        with pytest.raises(UsageError, match="exists and is not a lo copy"):
            pack(model, "Q4_0", out)
    with pytest.raises(UsageError, match="is a folder"):
        pack(model, "Q4_0", tmp_path)
    assert (model.read_bytes(), other.read_text()) == (before, "keep me")
    lo = pack(model, "Q4_0")
    assert pack(model, "Q5_0", lo) == lo
    assert expert_tensors(lo)["blk.0.ffn_up_exps.weight"].tensor_type.name == "Q5_0"


def test_a_model_of_which_a_part_is_cut_off_meanwhile(
    tmp_path: Path, tiny_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copy(tiny_model(LLAMA), tmp_path / "model.gguf"))
    monkeypatch.setattr(writer, "prepare", lambda _type: os.truncate(model, 100_000))
    with pytest.raises(ReadError, match="the file ends there, was it changed"):
        pack(model, "Q4_0")
    assert not (tmp_path / "model.lo-Q4_0.gguf").exists()


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", LLAMA, quant="F32")
    tensor = expert_tensors(model)["blk.1.ffn_up_exps.weight"]
    with model.open("r+b") as file:
        file.seek(tensor.data_offset + tensor.n_bytes // 2)
        file.write(np.float32(np.nan).tobytes())
    with pytest.raises(ModelFileError, match=r"of blk.1.ffn_up_exps.weight has weights that are not finite"):
        pack(model, "Q4_0")
    assert find_lo(model) is None


def test_weights_too_large_for_the_type(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", LLAMA, quant="F32")
    tensor = expert_tensors(model)["blk.1.ffn_up_exps.weight"]
    with model.open("r+b") as file:
        file.seek(tensor.data_offset)
        file.write(np.float32(1e30).tobytes())
    with pytest.raises(HobbitError, match="weights too large for Q4_0"):
        pack(model, "Q4_0")
    assert find_lo(model) is None


def test_command(tmp_path: Path, tiny_model: ModelFactory, capfd: pytest.CaptureFixture[str]) -> None:
    model = Path(shutil.copy(tiny_model(LLAMA), tmp_path / "model.gguf"))
    assert cli.main(["pack", str(model), "--lo", "q2_k,down=Q5_0", "--threads", "1"]) == 0
    shown = capfd.readouterr()
    out = tmp_path / "model.lo-Q2_K-down-Q5_0.gguf"
    assert (shown.out, shown.err) == (f"{out}\n", "")
    verify([model], out)
    assert cli.main(["pack", str(model), "--lo", "Q2_K", "-o", str(tmp_path / "other.gguf")]) == 0
    assert capfd.readouterr().err.startswith("hobbit: The down matrices of 2 layers become Q4_0")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--lo", "Q9_K"], "'Q9_K' is not a type"),
        (["--lo", "Q2_K,gate_up=Q4_0"], "names a kind of matrix"),
        (["--lo", "IQ2_XXS,down=Q4_0"], "IQ2_XXS needs an importance matrix"),
        (["--imatrix", "/nowhere/imatrix.gguf"], "'/nowhere/imatrix.gguf' cannot be read"),
        (["--imatrix", "MODEL"], "not an importance matrix"),
        (["-o", "/nowhere/lo.gguf"], "'/nowhere' is not a folder"),
        (["--threads", "0"], "--threads"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_bad_usage_is_one_line(
    tiny_model: ModelFactory, capfd: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    model = tiny_model(LLAMA)
    assert cli.main(["pack", str(model), *(str(model) if a == "MODEL" else a for a in arguments)]) == 2
    shown = capfd.readouterr()
    assert named in shown.err
    assert shown.err.startswith("hobbit: ")
    assert shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize(
    ("model", "named"),
    [("missing.gguf", "does not exist"), ("dense.gguf", "no expert tensors"), ("text.gguf", "not a GGUF")],
)
def test_bad_models_are_one_line(
    tmp_path: Path, tiny_model: ModelFactory, capfd: pytest.CaptureFixture[str], model: str, named: str
) -> None:
    shutil.copy(tiny_model("llama-dense"), tmp_path / "dense.gguf")
    (tmp_path / "text.gguf").write_text("a text that is no model")
    assert cli.main(["pack", str(tmp_path / model)]) == 2
    shown = capfd.readouterr()
    assert named in shown.err
    assert shown.err.count("\n") == 1
