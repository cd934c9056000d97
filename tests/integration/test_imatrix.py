"""The importance matrix: what it holds, where `hobbit imatrix` puts it, and that packing takes it from there."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from support import N_CTX, ArenaSize, ModelFactory, arena_bytes, make_prompt, stock_importance

import hobbit_py
from hobbit_py import cli
from hobbit_py.errors import UsageError
from hobbit_py.evaluate import Windows
from hobbit_py.pack.imatrix import Imatrix
from hobbit_py.tune.importance import record_importance

TEXT = "The hobbit went to the market and bought a loaf of bread, two eggs and a pipe. " * 8


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("arch", ["qwen3moe", "gpt-oss", "deepseek2-fused", "llama4"])
def test_equals_the_stock_graphs_inputs(tiny_model: ModelFactory, arch: str, arena: ArenaSize) -> None:
    path, prompt = tiny_model(arch), make_prompt(64)
    windows = Windows(inputs=(tuple(prompt),), targets=((),), first_scored=0)
    keywords = {"expert_memory": arena_bytes(path, arena), "n_ctx": N_CTX, "n_threads": 1, "logits_all": True}
    with closing(hobbit_py.Llama(path, **keywords)) as llama:
        recorded = record_importance(llama, [windows])
    expected = stock_importance(path, prompt)
    assert {tensor.name for tensor in recorded} == expected.keys()
    for tensor in recorded:
        squares, n_rows = expected[tensor.name]
        np.testing.assert_array_equal(tensor.n_rows, n_rows)
        np.testing.assert_allclose(tensor.squares, squares, rtol=1e-5)


def test_recording_leaves_the_results_alone(tiny_model: ModelFactory) -> None:
    path, prompt = tiny_model("qwen3moe"), make_prompt(32)
    with closing(hobbit_py.Llama(path, expert_memory=arena_bytes(path, ArenaSize.ALL), logits_all=True)) as llama:
        llama.eval(prompt)
        before = np.array(llama.scores[: len(prompt)])
        record_importance(llama, [Windows(inputs=(tuple(prompt),), targets=((),), first_scored=0)])
        assert np.array_equal(before, llama.scores[: len(prompt)])


def test_a_dense_model_is_refused(tiny_model: ModelFactory) -> None:
    with closing(hobbit_py.Llama(tiny_model("llama-dense"))) as llama, pytest.raises(UsageError, match="no experts"):
        record_importance(llama, [])


def test_pack_finds_what_the_command_wrote(
    tiny_model: ModelFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = tmp_path / "model.gguf", tmp_path / "text.txt"
    model.symlink_to(tiny_model("qwen3moe"))
    text.write_text(TEXT)
    assert cli.main(["imatrix", str(model), "--text", str(text), "--expert-memory", "1MiB"]) == 0
    out = tmp_path / "model.imatrix.gguf"
    assert capsys.readouterr().out.strip() == str(out)
    with Imatrix(out) as imatrix:
        assert imatrix.has("blk.0.ffn_down_exps.weight")

    assert cli.main(["pack", str(model), "--lo", "Q4_0"]) == 0
    shown = capsys.readouterr()
    assert "model.imatrix.gguf" in shown.err
    fields = GGUFReader(shown.out.strip()).fields
    assert fields["hobbit.pack.imatrix_sha256"].contents()


def test_a_folder_that_cannot_be_written_to(
    tiny_model: ModelFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "missing" / "imatrix.gguf"
    text.write_text(TEXT)
    assert cli.main(["imatrix", str(tiny_model("qwen3moe")), "--text", str(text), "-o", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
