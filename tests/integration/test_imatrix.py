"""The importance matrix: what it holds, where `hobbit imatrix` puts it, and that packing takes it from there."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from pack_support import expert_tensors
from support import N_CTX, ArenaSize, ModelFactory, arena_bytes, make_prompt, stock_importance

import hobbit_py
from hobbit_py import cli
from hobbit_py.errors import UsageError
from hobbit_py.evaluate import Windows
from hobbit_py.pack import pack
from hobbit_py.pack.imatrix import Imatrix
from hobbit_py.tune.importance import products_of, record_importance

TEXT = "The hobbit went to the market and bought a loaf of bread, two eggs and a pipe. " * 8


@pytest.mark.parametrize("arena", ArenaSize)
@pytest.mark.parametrize("arch", ["qwen3moe", "gpt-oss", "deepseek2-fused", "llama4"])
def test_equals_the_stock_graphs_inputs(tiny_model: ModelFactory, arch: str, arena: ArenaSize) -> None:
    path, prompt = tiny_model(arch), make_prompt(64)
    windows = Windows(inputs=(tuple(prompt),), targets=((),), first_scored=0)
    keywords = {"expert_memory": arena_bytes(path, arena), "n_ctx": N_CTX, "n_threads": 1, "logits_all": True}
    with closing(hobbit_py.Llama(path, **keywords)) as llama:
        recorded = record_importance(llama, [windows])
        products = {tensor.name: products_of(llama)(tensor.name) for tensor in recorded}
    expected = stock_importance(path, prompt)
    assert {tensor.name for tensor in recorded} == expected.keys()
    for tensor in recorded:
        sums, n_rows = expected[tensor.name]
        np.testing.assert_array_equal(tensor.n_rows, n_rows)
        np.testing.assert_allclose(tensor.squares, sums.diagonal(axis1=1, axis2=2), rtol=1e-5)
        found = products[tensor.name]
        if found is None:  # of up and gate the first in the graph
            assert "_down_" not in tensor.name
            assert any(products[tensor.name.replace(*names)] for names in (("_up_", "_gate_"), ("_gate_", "_up_")))
            continue
        triangles = sums[:, np.tril_indices(sums.shape[1])[0], np.tril_indices(sums.shape[1])[1]]
        np.testing.assert_array_equal(found[1], n_rows)
        np.testing.assert_allclose(found[0], triangles, rtol=1e-4, atol=1e-4 * triangles.max())


@pytest.mark.parametrize("arch", ["qwen3moe", "deepseek2-fused"])
def test_experts_share_where_there_is_no_room(tiny_model: ModelFactory, arch: str) -> None:
    path, prompt = tiny_model(arch), make_prompt(64)
    windows = Windows(inputs=(tuple(prompt),), targets=((),), first_scored=0)
    expected = stock_importance(path, prompt)
    n_used = 0
    with closing(hobbit_py.Llama(path, n_ctx=N_CTX, n_threads=1, logits_all=True)) as llama:
        n_in = max(sums.shape[1] for sums, _ in expected.values())
        n_layer = len(expected)
        recorded = record_importance(llama, [windows], max_moments_bytes=4 * n_layer * n_in * (n_in + 1) // 2)
        for tensor in recorded:
            found = products_of(llama)(tensor.name)
            if found is None:
                continue
            assert "_down_" not in tensor.name
            sums, n_rows = expected[tensor.name]
            np.testing.assert_array_equal(found[1], len(prompt))  # every token once
            triangle = sums.sum(axis=0)[np.tril_indices(sums.shape[1])] * len(prompt) / n_rows.sum()
            np.testing.assert_allclose(found[0][0], triangle, rtol=1e-4, atol=1e-4 * triangle.max())
            n_used += 1
        assert n_used > 0
        record_importance(llama, [windows], max_moments_bytes=100)
        assert all(products_of(llama)(tensor.name) is None for tensor in recorded)


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
    packed = Path(shown.out.strip())
    fields = GGUFReader(packed).fields
    assert fields["hobbit.pack.imatrix_sha256"].contents()
    assert fields["hobbit.pack.feedback"].contents() == 1

    assert cli.main(["pack", str(model), "--lo", "Q4_0", "--no-feedback", "-o", str(tmp_path / "plain.gguf")]) == 0
    plain, better = expert_tensors(tmp_path / "plain.gguf"), expert_tensors(packed)
    assert any(not np.array_equal(plain[name].data, better[name].data) for name in plain)
    assert all(plain[name].data.shape == better[name].data.shape for name in plain)


def test_feedback_loses_less_in_the_products(tiny_model: ModelFactory, tmp_path: Path) -> None:
    """On the text that was measured, of every kind of matrix; and threads and chunks change nothing."""
    model, text = tmp_path / "model.gguf", tmp_path / "text.txt"
    model.symlink_to(tiny_model("qwen3moe", quant="F16"))
    text.write_text(TEXT)
    assert cli.main(["imatrix", str(model), "--text", str(text), "--expert-memory", "1MiB"]) == 0
    imatrix_path = tmp_path / "model.imatrix.gguf"
    better_path = pack(model, "Q4_0", tmp_path / "better.gguf", imatrix_path, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hobbit_py.pack.layout._CHUNK_WEIGHTS", 1000)
        assert pack(model, "Q4_0", tmp_path / "many.gguf", imatrix_path, 5).read_bytes() == better_path.read_bytes()
    better = expert_tensors(better_path)
    plain = expert_tensors(pack(model, "Q4_0", tmp_path / "plain.gguf", imatrix_path, feedback=False))
    losses: dict[str, list[tuple[float, float]]] = {}
    with Imatrix(imatrix_path) as imatrix:
        for name, source in expert_tensors(model).items():
            n_in, _, n_expert = (int(n) for n in source.shape)
            for expert_idx in range(n_expert):
                moments = imatrix.moments(name, n_in, expert_idx).reshape(n_in, n_in)
                weights = source.data[expert_idx].astype(np.float32)
                both = []
                for packed in (plain, better):
                    errors = dequantize(packed[name].data[expert_idx], packed[name].tensor_type) - weights
                    both.append(float(np.einsum("ri,ij,rj->", errors, moments, errors, optimize=True)))
                assert both[1] <= both[0]
                losses.setdefault(name.split(".")[2], []).append((both[0], both[1]))
    for of_kind in losses.values():
        before, after = np.sum(of_kind, axis=0)
        assert after < 0.999 * before


def test_within_a_memory_budget(tiny_model: ModelFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, text = tmp_path / "model.gguf", tmp_path / "text.txt"
    model.symlink_to(tiny_model("qwen3moe"))
    text.write_text(TEXT)
    assert cli.main(["imatrix", str(model), "--text", str(text), "--memory", "1GiB"]) == 0
    with Imatrix(tmp_path / "model.imatrix.gguf") as imatrix:
        assert imatrix.has_moments("blk.0.ffn_down_exps.weight")
    assert cli.main(["imatrix", str(model), "--text", str(text), "--memory", "1MiB"]) != 0
    assert "1.00 MiB" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to(
    tiny_model: ModelFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "missing" / "imatrix.gguf"
    text.write_text(TEXT)
    assert cli.main(["imatrix", str(tiny_model("qwen3moe")), "--text", str(text), "-o", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
