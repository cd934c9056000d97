"""DeepSeek's family: multi-head latent attention, and experts selected within groups."""

from tiny_models.blocks import SIGMOID_GATE, dense_ffn, moe_ffn
from tiny_models.spec import Dims, ModelSpec, new_spec

_N_LORA_Q = 64
_N_LORA_KV = 64
_N_ROPE = 32
_N_NOPE = 32
_N_VALUE = 32


def deepseek2(dims: Dims, *, fused: bool = False) -> ModelSpec:
    """A leading dense layer, two shared experts, biased sigmoid gating that selects 2 of 4 groups of experts first."""
    n_expert_shared = 2
    spec = new_spec("deepseek2", dims)
    spec.metadata |= {
        "attention.head_count_kv": 1,  # the latent vector is the only key and value
        "attention.q_lora_rank": _N_LORA_Q,
        "attention.kv_lora_rank": _N_LORA_KV,
        "attention.key_length": _N_LORA_KV + _N_ROPE,
        "attention.value_length": _N_LORA_KV,
        "attention.key_length_mla": _N_NOPE + _N_ROPE,
        "attention.value_length_mla": _N_VALUE,
        "rope.dimension_count": _N_ROPE,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": dims.n_ff_exp,
        "expert_shared_count": n_expert_shared,
        "expert_group_count": 4,
        "expert_group_used_count": 2,
        "expert_weights_norm": True,
        "expert_weights_scale": 2.5,
        "expert_gating_func": SIGMOID_GATE,
    }
    spec.norm("output_norm.weight", dims.n_embd)
    for layer_idx in range(dims.n_layer):
        _latent_attention(spec, layer_idx)
        spec.norm("ffn_norm.weight", dims.n_embd, layer_idx=layer_idx)
        if layer_idx == 0:
            dense_ffn(spec, layer_idx)
            continue
        moe_ffn(spec, layer_idx, fused=fused, selection_bias=True)
        dense_ffn(spec, layer_idx, suffix="_shexp", n_ff=n_expert_shared * dims.n_ff_exp)
    return spec


def deepseek2_fused(dims: Dims) -> ModelSpec:
    """The same with gate and up matrices in one tensor."""
    return deepseek2(dims, fused=True)


def _latent_attention(spec: ModelSpec, layer_idx: int) -> None:
    dims = spec.dims
    spec.norm("attn_norm.weight", dims.n_embd, layer_idx=layer_idx)
    spec.matrix("attn_q_a.weight", _N_LORA_Q, dims.n_embd, layer_idx=layer_idx)
    spec.norm("attn_q_a_norm.weight", _N_LORA_Q, layer_idx=layer_idx)
    spec.matrix("attn_q_b.weight", dims.n_head * (_N_NOPE + _N_ROPE), _N_LORA_Q, layer_idx=layer_idx)
    spec.matrix("attn_kv_a_mqa.weight", _N_LORA_KV + _N_ROPE, dims.n_embd, layer_idx=layer_idx)
    spec.norm("attn_kv_a_norm.weight", _N_LORA_KV, layer_idx=layer_idx)
    spec.per_head("attn_k_b.weight", _N_LORA_KV, _N_NOPE, layer_idx)
    spec.per_head("attn_v_b.weight", _N_VALUE, _N_LORA_KV, layer_idx)
    spec.matrix("attn_output.weight", dims.n_embd, dims.n_head * _N_VALUE, layer_idx=layer_idx)
