"""The families: which tensors and metadata llama.cpp wants of each architecture."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tiny_models.blocks import attention, dense_ffn, head_norms, moe_ffn
from tiny_models.mixed_layers import bailingmoe2, ernie4_5_moe, glm4moe, lfm2moe, llama4
from tiny_models.mla import deepseek2, deepseek2_fused
from tiny_models.spec import Dims, ModelSpec, new_spec
from tiny_models.tokenizer import N_VOCAB

_SLIDING_WINDOW = 128


def _llama(dims: Dims, *, gated: bool = True) -> ModelSpec:
    """Mixtral."""
    spec = new_spec("llama", dims, n_ff=dims.n_ff_exp)
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx, gated=gated)
    return spec


def _llama_ungated(dims: Dims) -> ModelSpec:
    return _llama(dims, gated=False)


def _llama_dense(dims: Dims) -> ModelSpec:
    spec = new_spec("llama", replace(dims, n_expert=0, n_expert_used=0))
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        dense_ffn(spec, layer_idx)
    return spec


def _qwen2moe(dims: Dims) -> ModelSpec:
    """Biased attention, a gated shared expert, weights that are not normalised."""
    spec = new_spec("qwen2moe", dims)
    spec.metadata |= {"expert_feed_forward_length": dims.n_ff_exp, "expert_shared_feed_forward_length": dims.n_ff}
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx, bias=True)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx)
        spec.plain("ffn_gate_inp_shexp.weight", dims.n_embd, layer_idx=layer_idx)
        dense_ffn(spec, layer_idx, suffix="_shexp")
    return spec


def _qwen3moe(dims: Dims) -> ModelSpec:
    spec = new_spec("qwen3moe", dims)
    spec.metadata["expert_feed_forward_length"] = dims.n_ff_exp
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        head_norms(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx)
    return spec


def _qwen3moe_scaled(dims: Dims) -> ModelSpec:
    """A scale for each expert's matrices, as NVFP4 files have."""
    spec = _qwen3moe(dims)
    for layer_idx in range(dims.n_layer):
        for name in ("gate", "up", "down"):
            spec.norm(f"ffn_{name}_exps.scale", dims.n_expert, layer_idx=layer_idx)
    return spec


def _olmoe(dims: Dims) -> ModelSpec:
    """Norms of Q and K over all heads at once."""
    dims = replace(dims, n_head_kv=dims.n_head)
    spec = new_spec("olmoe", dims, n_ff=dims.n_ff_exp)
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        spec.norm("attn_q_norm.weight", dims.n_embd, layer_idx=layer_idx)
        spec.norm("attn_k_norm.weight", dims.n_embd, layer_idx=layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx)
    return spec


def _phimoe(dims: Dims) -> ModelSpec:
    """Biases on norms, attention and the output head."""
    spec = new_spec("phimoe", dims, n_ff=dims.n_ff_exp)
    spec.norm("output_norm.weight", dims.n_embd)
    spec.plain("output_norm.bias", dims.n_embd)
    spec.plain("output.bias", N_VOCAB)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx, bias=True, output_bias=True)
        spec.plain("attn_norm.bias", dims.n_embd, layer_idx=layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        spec.plain("ffn_norm.bias", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx)
    return spec


def _gpt_oss(dims: Dims) -> ModelSpec:
    """Attention sinks, a sliding window, biases on router and experts."""
    spec = new_spec("gpt-oss", dims)
    spec.metadata |= {
        "expert_feed_forward_length": dims.n_ff_exp,
        "attention.sliding_window": _SLIDING_WINDOW,
        "attention.key_length": dims.head_dim,
        "attention.value_length": dims.head_dim,
    }
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx, bias=True, output_bias=True)
        spec.plain("attn_sinks.weight", dims.n_head, layer_idx=layer_idx, std=1.0)
        spec.norm("post_attention_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx)
        spec.plain("ffn_gate_inp.bias", dims.n_expert, layer_idx=layer_idx)
        spec.plain("ffn_gate_exps.bias", dims.n_expert, dims.n_ff_exp, layer_idx=layer_idx)
        spec.plain("ffn_up_exps.bias", dims.n_expert, dims.n_ff_exp, layer_idx=layer_idx)
        spec.plain("ffn_down_exps.bias", dims.n_expert, dims.n_embd, layer_idx=layer_idx)
    return spec


def _granitemoe(dims: Dims) -> ModelSpec:
    """Scaled embeddings, residuals, attention and logits; a shared expert."""
    spec = new_spec("granitemoe", dims, n_ff=dims.n_ff_exp)
    spec.metadata |= {
        "logit_scale": 0.5,
        "residual_scale": 0.5,
        "embedding_scale": 2.0,
        "attention.scale": 0.1,
        "expert_shared_feed_forward_length": dims.n_ff,
    }
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx)
        dense_ffn(spec, layer_idx, suffix="_shexp")
    return spec


def _granite_swa(dims: Dims) -> ModelSpec:
    """Fused gate and up matrices, attention sinks, sliding windows in every other layer."""
    spec = new_spec("granite_swa", dims, n_ff=dims.n_ff_exp)
    spec.metadata |= {
        "logit_scale": 0.5,
        "residual_scale": 0.5,
        "attention.sliding_window": _SLIDING_WINDOW,
        "attention.sliding_window_pattern": [layer_idx % 2 == 0 for layer_idx in range(dims.n_layer)],
    }
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        spec.plain("attn_sinks.weight", dims.n_head, layer_idx=layer_idx, std=1.0)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx, fused=True)
    return spec


def _grovemoe(dims: Dims) -> ModelSpec:
    """A second, smaller set of experts ("chunks"), each shared by two ordinary ones and selected by the same router."""
    experts_per_group = 2
    spec = new_spec("grovemoe", dims)
    spec.metadata |= {
        "expert_feed_forward_length": dims.n_ff_exp,
        "expert_chunk_feed_forward_length": dims.n_ff_exp,
        "expert_group_scale": 0.5,
        "experts_per_group": experts_per_group,
    }
    n_chunks = dims.n_expert // experts_per_group
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        head_norms(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        moe_ffn(spec, layer_idx)
        spec.experts("ffn_gate_chexps.weight", dims.n_ff_exp, dims.n_embd, layer_idx, n_expert=n_chunks)
        spec.experts("ffn_up_chexps.weight", dims.n_ff_exp, dims.n_embd, layer_idx, n_expert=n_chunks)
        spec.experts("ffn_down_chexps.weight", dims.n_embd, dims.n_ff_exp, layer_idx, n_expert=n_chunks)
    return spec


@dataclass(frozen=True)
class Family:
    """How to describe a model of the family, and its default sizes."""

    describe: Callable[[Dims], ModelSpec]
    n_layer: int = 3
    n_expert: int = 16
    n_expert_used: int = 4


_ARCHITECTURES = {
    "llama": Family(_llama, n_layer=2, n_expert=8, n_expert_used=2),
    "qwen2moe": Family(_qwen2moe, n_layer=2),
    "qwen3moe": Family(_qwen3moe),
    "olmoe": Family(_olmoe, n_layer=2),
    "deepseek2": Family(deepseek2),
    "phimoe": Family(_phimoe, n_layer=2, n_expert_used=2),
    "gpt-oss": Family(_gpt_oss, n_layer=2),
    "granitemoe": Family(_granitemoe, n_layer=2),
    "glm4moe": Family(glm4moe),
    "llama4": Family(llama4, n_layer=4, n_expert_used=1),
    "lfm2moe": Family(lfm2moe, n_layer=4),
    "ernie4_5-moe": Family(ernie4_5_moe),
    "bailingmoe2": Family(bailingmoe2),
    "granite_swa": Family(_granite_swa, n_layer=2),
    "grovemoe": Family(_grovemoe, n_layer=2),
}

# Forms of expert layers, and of models, that the architectures above do not show by themselves.
_VARIANTS = {
    "deepseek2-fused": Family(deepseek2_fused),
    "llama-ungated": Family(_llama_ungated, n_layer=2, n_expert=8, n_expert_used=2),
    "llama-dense": Family(_llama_dense, n_layer=2, n_expert=0, n_expert_used=0),
    "qwen3moe-scaled": Family(_qwen3moe_scaled, n_layer=2),
}

FAMILIES = _ARCHITECTURES | _VARIANTS
ARCHITECTURES: tuple[str, ...] = tuple(_ARCHITECTURES)
VARIANTS: tuple[str, ...] = tuple(_VARIANTS)
