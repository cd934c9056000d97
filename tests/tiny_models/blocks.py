"""Groups of tensors that several families have in common."""

from tiny_models.spec import ModelSpec

SIGMOID_GATE = 2  # llama.cpp's value of expert_gating_func


def attention(spec: ModelSpec, layer_idx: int, *, bias: bool = False, output_bias: bool = False) -> None:
    """Separate Q, K and V projections, optionally with biases, and the output projection."""
    dims = spec.dims
    n_q, n_kv = dims.n_head * dims.head_dim, dims.n_head_kv * dims.head_dim
    spec.norm("attn_norm.weight", dims.n_embd, layer_idx=layer_idx)
    for name, n_out in (("attn_q", n_q), ("attn_k", n_kv), ("attn_v", n_kv)):
        spec.matrix(f"{name}.weight", n_out, dims.n_embd, layer_idx=layer_idx)
        if bias:
            spec.plain(f"{name}.bias", n_out, layer_idx=layer_idx)
    spec.matrix("attn_output.weight", dims.n_embd, n_q, layer_idx=layer_idx)
    if output_bias:
        spec.plain("attn_output.bias", dims.n_embd, layer_idx=layer_idx)


def head_norms(spec: ModelSpec, layer_idx: int) -> None:
    """Norms of Q and K over each head."""
    spec.norm("attn_q_norm.weight", spec.dims.head_dim, layer_idx=layer_idx)
    spec.norm("attn_k_norm.weight", spec.dims.head_dim, layer_idx=layer_idx)


def dense_ffn(spec: ModelSpec, layer_idx: int, *, suffix: str = "", n_ff: int | None = None) -> None:
    """A gated FFN; `suffix` "_shexp" makes it a shared expert."""
    dims = spec.dims
    n_ff = n_ff or dims.n_ff
    spec.matrix(f"ffn_gate{suffix}.weight", n_ff, dims.n_embd, layer_idx=layer_idx)
    spec.matrix(f"ffn_up{suffix}.weight", n_ff, dims.n_embd, layer_idx=layer_idx)
    spec.matrix(f"ffn_down{suffix}.weight", dims.n_embd, n_ff, layer_idx=layer_idx)


def moe_ffn(
    spec: ModelSpec,
    layer_idx: int,
    *,
    fused: bool = False,
    gated: bool = True,
    selection_bias: bool = False,
) -> None:
    """Router and experts: gate, up and down, or gate and up fused, or no gate; optionally DeepSeek's selection bias."""
    dims = spec.dims
    spec.router(layer_idx)
    if selection_bias:
        spec.plain("exp_probs_b.bias", dims.n_expert, layer_idx=layer_idx)
    if fused:
        spec.experts("ffn_gate_up_exps.weight", 2 * dims.n_ff_exp, dims.n_embd, layer_idx)
    else:
        if gated:
            spec.experts("ffn_gate_exps.weight", dims.n_ff_exp, dims.n_embd, layer_idx)
        spec.experts("ffn_up_exps.weight", dims.n_ff_exp, dims.n_embd, layer_idx)
    spec.experts("ffn_down_exps.weight", dims.n_embd, dims.n_ff_exp, layer_idx)
