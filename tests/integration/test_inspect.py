"""`hobbit inspect` and what it stands on: tensors by kind and type, layers that differ, lo copies."""

import json
import shutil
from pathlib import Path

import pytest
from gguf import GGUFReader
from support import ModelFactory
from tiny_models import split_model

from hobbit_py import ModelFileError, cli
from hobbit_py.inspection import inspect_model
from hobbit_py.pack import pack


def sizes_of(path: Path) -> tuple[int, int]:
    """(bytes of expert tensors, bytes of all others), as the gguf package counts them."""
    tensors = GGUFReader(path).tensors
    experts = sum(int(tensor.n_bytes) for tensor in tensors if "_exps.weight" in tensor.name)
    return experts, sum(int(tensor.n_bytes) for tensor in tensors) - experts


def test_groups_sizes_and_layers_that_differ(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe", experts_quant=("Q8_0", "Q4_0", "Q8_0"), down_quant=("Q8_0", "Q5_0", "Q8_0"))
    found = inspect_model(path)
    assert (found.expert_bytes, found.dense_bytes) == sizes_of(path)
    assert found.architecture == "qwen3moe"
    assert found.n_expert_used == 4
    groups = {(group.kind, group.type): group for group in found.groups}
    assert set(groups) == {(kind, "Q8_0") for kind in ("gate", "up", "down")} | {
        ("gate", "Q4_0"),
        ("up", "Q4_0"),
        ("down", "Q5_0"),
    }
    assert groups["up", "Q8_0"].layers == (0, 2)
    assert groups["up", "Q8_0"].total_bytes == 2 * 16 * groups["up", "Q8_0"].matrix_bytes
    assert found.layers_that_differ == {1: "down Q5_0, gate Q4_0, up Q4_0"}


def test_lo_copies_and_why_one_cannot_be_used(tiny_model: ModelFactory, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_model("qwen3moe"), tmp_path / "m.gguf"))
    other = Path(shutil.copy(tiny_model("qwen3moe", seed=1), tmp_path / "other.gguf"))
    good = pack(path, "Q4_0")
    bad = pack(other, "Q4_1").rename(tmp_path / "m.lo-Q4_1.gguf")
    found = {lo.path: lo for lo in inspect_model(path).lo_copies}
    assert set(found) == {good, bad}
    assert (found[good].types, found[good].problem) == ("Q4_0", "")
    assert "other weights" in found[bad].problem


def test_split_and_dense_models(tiny_model: ModelFactory, tmp_path: Path) -> None:
    whole = inspect_model(tiny_model("glm4moe"))
    parts = split_model(Path(shutil.copy(tiny_model("glm4moe"), tmp_path / "m.gguf")), 3)
    split = inspect_model(parts[0])
    assert split.paths == tuple(parts)
    assert (split.expert_bytes, split.dense_bytes) == (whole.expert_bytes, whole.dense_bytes)
    dense = inspect_model(tiny_model("llama-dense"))
    assert dense.groups == ()
    assert dense.expert_bytes == 0
    assert dense.dense_bytes > 0


def test_command(tiny_model: ModelFactory, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_model("qwen3moe", experts_quant=("Q8_0", "Q4_0", "Q8_0"))
    assert cli.main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Layer 1 differs: down Q4_0, gate Q4_0, up Q4_0" in shown
    assert "hobbit pack" in shown
    assert cli.main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["expert_bytes"] == sizes_of(path)[0]
    assert report["groups"][0]["layers"]
    assert cli.main(["inspect", str(tiny_model("llama-dense"))]) == 0
    assert "No experts" in capsys.readouterr().out
    assert cli.main(["inspect", "nowhere.gguf"]) == 2
    assert "nowhere.gguf" in capsys.readouterr().err


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match="truncated"):
        inspect_model(path)
