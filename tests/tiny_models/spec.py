"""What a model consists of, before any weight exists: metadata and the shapes of its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from tiny_models.tokenizer import N_VOCAB

# Standard deviation of the router's logits. Large enough that tokens select different experts, small enough that a
# sigmoid gate does not saturate into ties.
ROUTER_LOGIT_STD = 2.0

MetadataValue = int | float | bool | str | Sequence[int] | Sequence[bool]


class Role(Enum):
    """Decides in which type a tensor is stored."""

    PLAIN = "plain"  # always F32: norms, biases, routers
    DENSE = "dense"  # the type of the dense weights
    EXPERT = "expert"  # the type of the experts' gate and up matrices
    EXPERT_DOWN = "expert_down"  # the type of the experts' down matrices


@dataclass(frozen=True)
class Dims:
    """Sizes shared by all families. Rows of every large matrix fit the 256-weight blocks of the K- and I-quants."""

    n_layer: int
    n_expert: int
    n_expert_used: int
    n_ff_exp: int
    n_embd: int = 256
    n_ff: int = 256
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64


@dataclass(frozen=True)
class TensorSpec:
    """One tensor, drawn from a normal distribution. `shape` is numpy's order: rows of `shape[-1]` weights."""

    name: str
    shape: tuple[int, ...]
    role: Role
    layer_idx: int | None
    mean: float
    std: float


@dataclass
class ModelSpec:
    """Collects metadata (keys without the architecture's prefix) and tensors of one model."""

    arch: str
    dims: Dims
    metadata: dict[str, MetadataValue] = field(default_factory=dict)
    tensors: list[TensorSpec] = field(default_factory=list)

    def matrix(self, name: str, n_out: int, n_in: int, *, layer_idx: int | None = None) -> None:
        """A dense projection from n_in to n_out that keeps the variance of its input."""
        self._add(name, (n_out, n_in), Role.DENSE, layer_idx, std=n_in**-0.5)

    def experts(self, name: str, n_out: int, n_in: int, layer_idx: int, *, n_expert: int | None = None) -> None:
        """The same projection for every expert of a layer."""
        role = Role.EXPERT_DOWN if "_down_" in name else Role.EXPERT
        shape = (n_expert or self.dims.n_expert, n_out, n_in)
        self._add(name, shape, role, layer_idx, std=n_in**-0.5)

    def per_head(self, name: str, n_out: int, n_in: int, layer_idx: int) -> None:
        """The same projection for every attention head."""
        self._add(name, (self.dims.n_head, n_out, n_in), Role.DENSE, layer_idx, std=n_in**-0.5)

    def router(self, layer_idx: int) -> None:
        std = ROUTER_LOGIT_STD * self.dims.n_embd**-0.5
        shape = (self.dims.n_expert, self.dims.n_embd)
        self._add("ffn_gate_inp.weight", shape, Role.PLAIN, layer_idx, std=std)

    def norm(self, name: str, n: int, *, layer_idx: int | None = None) -> None:
        self._add(name, (n,), Role.PLAIN, layer_idx, mean=1.0, std=0.1)

    def plain(self, name: str, *shape: int, layer_idx: int | None = None, std: float = 0.1) -> None:
        """A bias or another small tensor that llama.cpp wants in F32."""
        self._add(name, shape, Role.PLAIN, layer_idx, std=std)

    def _add(
        self, name: str, shape: tuple[int, ...], role: Role, layer_idx: int | None, *, std: float, mean: float = 0.0
    ) -> None:
        full_name = name if layer_idx is None else f"blk.{layer_idx}.{name}"
        self.tensors.append(TensorSpec(full_name, shape, role, layer_idx, mean, std))


def new_spec(arch: str, dims: Dims, *, n_ff: int | None = None) -> ModelSpec:
    """Metadata, embedding and output head that all families share; `n_ff` defaults to that of the dense layers."""
    spec = ModelSpec(arch, dims)
    spec.metadata |= {
        "context_length": 2048,
        "embedding_length": dims.n_embd,
        "block_count": dims.n_layer,
        "feed_forward_length": n_ff or dims.n_ff,
        "attention.head_count": dims.n_head,
        "attention.head_count_kv": dims.n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }
    if dims.n_expert:
        spec.metadata |= {"expert_count": dims.n_expert, "expert_used_count": dims.n_expert_used}
    # Unit-variance embeddings keep the residual stream, hence the routing, specific to each token.
    spec._add("token_embd.weight", (N_VOCAB, dims.n_embd), Role.DENSE, None, std=1.0)
    spec.matrix("output.weight", N_VOCAB, dims.n_embd)
    return spec
