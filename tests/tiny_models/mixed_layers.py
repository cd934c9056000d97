"""Families in which some layers have a dense FFN, or no attention, and others have experts."""

from tiny_models.blocks import SIGMOID_GATE, attention, dense_ffn, head_norms, moe_ffn
from tiny_models.spec import Dims, ModelSpec, new_spec


def glm4moe(dims: Dims) -> ModelSpec:
    """A leading dense layer, biased sigmoid gating, a shared expert."""
    spec = new_spec("glm4moe", dims)
    spec.metadata |= {
        "expert_feed_forward_length": dims.n_ff_exp,
        "expert_shared_count": 1,
        "leading_dense_block_count": 1,
        "expert_weights_norm": True,
        "expert_weights_scale": 1.5,
        "expert_gating_func": SIGMOID_GATE,
        "rope.dimension_count": dims.head_dim // 2,
    }
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx, bias=True)
        head_norms(spec, layer_idx)
        spec.norm("post_attention_norm.weight", dims.n_embd, layer_idx=layer_idx)
        if layer_idx == 0:
            dense_ffn(spec, layer_idx)
            continue
        moe_ffn(spec, layer_idx, selection_bias=True)
        dense_ffn(spec, layer_idx, suffix="_shexp", n_ff=dims.n_ff_exp)
    return spec


def llama4(dims: Dims) -> ModelSpec:
    """Gate weights applied before the FFN; every other layer is dense; a shared expert."""
    spec = new_spec("llama4", dims)
    spec.metadata |= {"expert_feed_forward_length": dims.n_ff_exp, "interleave_moe_layer_step": 2}
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        if layer_idx % 2 == 0:
            dense_ffn(spec, layer_idx)
            continue
        moe_ffn(spec, layer_idx)
        dense_ffn(spec, layer_idx, suffix="_shexp", n_ff=dims.n_ff_exp)
    return spec


def lfm2moe(dims: Dims) -> ModelSpec:
    """Short convolutions in place of attention in every other layer; a leading dense layer; biased sigmoid gating."""
    n_conv = 3
    spec = new_spec("lfm2moe", dims)
    spec.metadata |= {
        # A layer without KV heads is a convolution.
        "attention.head_count_kv": [dims.n_head_kv * (layer_idx % 2) for layer_idx in range(dims.n_layer)],
        "shortconv.l_cache": n_conv,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": dims.n_ff_exp,
        "expert_gating_func": SIGMOID_GATE,
    }
    spec.norm("token_embd_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        if layer_idx % 2:
            attention(spec, layer_idx)
            head_norms(spec, layer_idx)
        else:
            spec.norm("attn_norm.weight", dims.n_embd, layer_idx=layer_idx)
            spec.plain("shortconv.conv.weight", dims.n_embd, n_conv, layer_idx=layer_idx, std=n_conv**-0.5)
            spec.matrix("shortconv.in_proj.weight", 3 * dims.n_embd, dims.n_embd, layer_idx=layer_idx)
            spec.matrix("shortconv.out_proj.weight", dims.n_embd, dims.n_embd, layer_idx=layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        if layer_idx == 0:
            dense_ffn(spec, layer_idx)
        else:
            moe_ffn(spec, layer_idx, selection_bias=True)
    return spec


def ernie4_5_moe(dims: Dims) -> ModelSpec:
    """A leading dense layer, biased softmax gating, a shared expert."""
    spec = new_spec("ernie4_5-moe", dims)
    spec.metadata |= {
        "expert_feed_forward_length": dims.n_ff_exp,
        "expert_shared_feed_forward_length": dims.n_ff,
        "interleave_moe_layer_step": 1,
        "leading_dense_block_count": 1,
    }
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        attention(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        if layer_idx == 0:
            dense_ffn(spec, layer_idx)
            continue
        moe_ffn(spec, layer_idx, selection_bias=True)
        dense_ffn(spec, layer_idx, suffix="_shexp")
    return spec


def bailingmoe2(dims: Dims) -> ModelSpec:
    """One matrix for Q, K and V; a leading dense layer; biased sigmoid gating in groups of experts; a shared expert."""
    spec = new_spec("bailingmoe2", dims)
    spec.metadata |= {
        "expert_feed_forward_length": dims.n_ff_exp,
        "expert_shared_count": 1,
        "leading_dense_block_count": 1,
        "expert_group_count": 4,
        "expert_group_used_count": 2,
        "expert_weights_norm": True,
        "expert_weights_scale": 2.5,
        "expert_gating_func": SIGMOID_GATE,
    }
    n_q, n_kv = dims.n_head * dims.head_dim, dims.n_head_kv * dims.head_dim
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        spec.norm("attn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        spec.matrix("attn_qkv.weight", n_q + 2 * n_kv, dims.n_embd, layer_idx=layer_idx)
        spec.matrix("attn_output.weight", dims.n_embd, n_q, layer_idx=layer_idx)
        head_norms(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        if layer_idx == 0:
            dense_ffn(spec, layer_idx)
            continue
        moe_ffn(spec, layer_idx, selection_bias=True)
        dense_ffn(spec, layer_idx, suffix="_shexp", n_ff=dims.n_ff_exp)
    return spec
