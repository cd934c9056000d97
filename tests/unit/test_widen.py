"""scripts/widen_gguf.py keeps the function of a model: the same logits from stock llama.cpp, up to rounding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "widen_gguf.py"
N_LAYER, N_EMBD, N_FF, N_HEAD, N_KV_HEAD, N_EXPERT, N_USED, N_VOCAB = 2, 64, 32, 4, 2, 8, 2, 96
TOKENS = [3, 17, 5, 88, 41, 2, 60]


def write_model(path: Path, arch: str, tied: bool = False) -> None:
    """A random model of `arch`; head_dim is left to be derived from the width, as converters of Mixtral do."""
    rng = np.random.default_rng(7)
    head_dim = N_EMBD // N_HEAD
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(64)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_KV_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(N_EXPERT)
    writer.add_expert_used_count(N_USED)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    if arch == "qwen3moe":
        writer.add_expert_feed_forward_length(N_FF)

    def add(name: str, shape: Sequence[int], as_type: type[np.floating] = np.float16) -> None:
        values = rng.standard_normal(shape) / np.sqrt(shape[-1])
        if len(shape) == 1:
            values = 1 + 0.2 * rng.standard_normal(shape)
        writer.add_tensor(name, values.astype(as_type))

    add("token_embd.weight", (N_VOCAB, N_EMBD))
    add("output_norm.weight", (N_EMBD,), np.float32)
    if not tied:
        add("output.weight", (N_VOCAB, N_EMBD))
    for layer_idx in range(N_LAYER):
        block = f"blk.{layer_idx}."
        add(block + "attn_norm.weight", (N_EMBD,), np.float32)
        add(block + "attn_q.weight", (N_HEAD * head_dim, N_EMBD))
        add(block + "attn_k.weight", (N_KV_HEAD * head_dim, N_EMBD))
        add(block + "attn_v.weight", (N_KV_HEAD * head_dim, N_EMBD))
        add(block + "attn_output.weight", (N_EMBD, N_HEAD * head_dim))
        if arch == "qwen3moe":
            add(block + "attn_q_norm.weight", (head_dim,), np.float32)
            add(block + "attn_k_norm.weight", (head_dim,), np.float32)
        add(block + "ffn_norm.weight", (N_EMBD,), np.float32)
        add(block + "ffn_gate_inp.weight", (N_EXPERT, N_EMBD), np.float32)
        add(block + "ffn_gate_exps.weight", (N_EXPERT, N_FF, N_EMBD))
        add(block + "ffn_up_exps.weight", (N_EXPERT, N_FF, N_EMBD))
        add(block + "ffn_down_exps.weight", (N_EXPERT, N_EMBD, N_FF))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(path: Path) -> npt.NDArray[np.float32]:
    """[len(TOKENS), N_VOCAB] of stock llama.cpp."""
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    model.eval(TOKENS)
    result = np.array(model.scores[: len(TOKENS)])
    model.close()
    return result


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# F16 differs by the division alone, Q8_0 by 8-bit weights and activations too. A missing division is off by over 100%.
@pytest.mark.parametrize(("quant_type", "tolerance"), [("F16", 0.005), ("Q8_0", 0.05)])
@pytest.mark.parametrize(("arch", "tied"), [("llama", False), ("qwen3moe", False), ("qwen3moe", True)])
def test_logits_are_kept(tmp_path: Path, arch: str, tied: bool, quant_type: str, tolerance: float) -> None:
    source, target = tmp_path / "source.gguf", tmp_path / "wide.gguf"
    write_model(source, arch, tied)

    done = run(source, target, "--embd", "3", "--ff", "5", "--type", quant_type)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # progress is for terminals
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.gguf", "wide.gguf"]
    shapes = {t.name: tuple(map(int, t.shape)) for t in gguf.GGUFReader(target).tensors}
    assert shapes["blk.1.ffn_up_exps.weight"] == (3 * N_EMBD, 5 * N_FF, N_EXPERT)
    assert shapes["blk.1.ffn_down_exps.weight"] == (5 * N_FF, 3 * N_EMBD, N_EXPERT)
    expected, found = logits(source), logits(target)
    error = np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected)
    assert error < tolerance


def test_size_chooses_the_nearest_repeat_count(tmp_path: Path) -> None:
    source, target = tmp_path / "source.gguf", tmp_path / "wide.gguf"
    write_model(source, "qwen3moe")

    done = run(source, target, "--embd", "2", "--size", "2MB", "--type", "F16")

    assert done.returncode == 0, done.stderr
    step_bytes = N_LAYER * N_EXPERT * 3 * N_FF * 2 * N_EMBD * 2  # what one more repeat of the hidden layer adds
    assert abs(target.stat().st_size - 2_000_000) < 0.6 * step_bytes


def test_bad_sources_are_refused_in_one_sentence(tmp_path: Path) -> None:
    not_gguf, missing, good = tmp_path / "text.gguf", tmp_path / "missing.gguf", tmp_path / "good.gguf"
    not_gguf.write_text("no model at all, only text that is long enough")
    write_model(good, "llama")
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    for source, target in [
        (not_gguf, "wide.gguf"),
        (missing, "wide.gguf"),
        (truncated, "wide.gguf"),
        (good, "good.gguf"),
    ]:
        done = run(source, tmp_path / target)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "wide.gguf").exists()
    assert good.stat().st_size > 0


def test_unknown_tensors_are_named(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(source, "qwen3moe")
    writer.add_expert_count(2)
    writer.add_tensor("blk.0.ffn_gate_shexp.weight", np.zeros((32, 32), np.float16))
    writer.add_tensor("token_embd.weight", np.zeros((32, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    done = run(source, tmp_path / "wide.gguf")

    assert done.returncode == 2
    assert "blk.0.ffn_gate_shexp.weight" in done.stderr
