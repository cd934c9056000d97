"""The tiny models are fit to test with: stock llama-cpp-python runs them, tokens and experts differ."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from support import (
    ModelFactory,
    expert_bytes_by_layer,
    expert_counts,
    make_prompt,
    stock_llama,
    stock_logits,
    stock_selected_experts,
)
from tiny_models import ARCHITECTURES, N_VOCAB, QUANT_TYPES, VARIANTS, split_model, write_model

MOE_MODELS = [name for name in ARCHITECTURES + VARIANTS if name != "llama-dense"]


@pytest.mark.parametrize("n_tokens", [16, 600])
@pytest.mark.parametrize("arch", ARCHITECTURES + VARIANTS)
def test_stock_runs_it(tiny_model: ModelFactory, arch: str, n_tokens: int) -> None:
    logits = stock_logits(tiny_model(arch), make_prompt(n_tokens), make_prompt(4, seed=1))
    assert logits.shape == (n_tokens + 4, N_VOCAB)
    assert np.isfinite(logits).all()
    assert len(np.unique(logits, axis=0)) == len(logits)
    assert logits.std(axis=0).min() > 0.1


@pytest.mark.parametrize("arch", MOE_MODELS)
def test_tokens_select_different_experts(tiny_model: ModelFactory, arch: str) -> None:
    path = tiny_model(arch)
    n_expert, _ = expert_counts(path)
    selected = stock_selected_experts(path, make_prompt(64))
    assert selected.keys() == expert_bytes_by_layer(path).keys()
    for layer_idx, expert_idxs in selected.items():
        assert expert_idxs <= set(range(n_expert))
        assert len(expert_idxs) >= n_expert / 2, f"layer {layer_idx}"


def test_dense_model_has_no_experts(tiny_model: ModelFactory) -> None:
    path = tiny_model("llama-dense")
    assert expert_counts(path) == (0, 0)
    assert expert_bytes_by_layer(path) == {}


def test_same_seed_same_file(tmp_path: Path) -> None:
    first = write_model(tmp_path / "first.gguf", "qwen3moe").read_bytes()
    again = write_model(tmp_path / "again.gguf", "qwen3moe").read_bytes()
    other = write_model(tmp_path / "other.gguf", "qwen3moe", seed=1).read_bytes()
    assert first == again
    assert first != other


@pytest.mark.parametrize("quant", QUANT_TYPES)
def test_experts_have_the_type_asked_for(tiny_model: ModelFactory, quant: str) -> None:
    path = tiny_model("qwen3moe", n_layer=2, n_expert=4, n_expert_used=2, experts_quant=quant)
    types = {tensor.tensor_type.name for tensor in GGUFReader(path).tensors if "_exps" in tensor.name}
    assert types == {quant}


def test_types_by_layer(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", "qwen3moe", n_layer=2, experts_quant="Q4_K", down_quant=["Q6_K", "Q4_K"])
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert types["blk.0.ffn_down_exps.weight"] == "Q6_K"
    assert types["blk.1.ffn_down_exps.weight"] == "Q4_K"
    assert types["blk.0.ffn_up_exps.weight"] == "Q4_K"
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    with pytest.raises(ValueError, match="1 types given for 2 layers"):
        write_model(tmp_path / "n.gguf", "qwen3moe", n_layer=2, experts_quant=["Q4_K"])


def test_split_model_is_the_same_model(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "m.gguf", "qwen3moe")
    expected = stock_logits(whole, make_prompt(16))
    parts = split_model(whole, 3)
    assert [part.name for part in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    whole.unlink()
    assert np.array_equal(stock_logits(parts[0], make_prompt(16)), expected)


def test_tokenizer_takes_any_text(tiny_model: ModelFactory) -> None:
    text = bytes(range(1, 128)) + " eat the roast, Zoë, 日本 🎉".encode()
    with stock_llama(tiny_model("llama")) as model:
        tokens = model.tokenize(text, add_bos=False)
        assert model.n_vocab() == N_VOCAB
        assert len(tokens) < len(text), "no letters were merged"
        assert model.detokenize(tokens) == text
