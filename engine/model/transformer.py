"""The transformer over one flat batch of tokens, for every family that `Architecture` describes.

It knows layers and this rank's shard of each weight. It does not know rows, pages or requests: attention is a callable
that takes a layer's queries, keys and values, and owns the KV cache.

Shapes: T tokens of the batch, D the head size; numbers of heads are those of this rank.
"""

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.checkpoint import ModelSpec
from engine.distributed.tensor_parallel import (
    ColumnLinear,
    Embedding,
    OutputLinear,
    RowLinear,
    check_divisible,
    ffn_width,
    kv_heads,
)
from engine.layers.paged_attention import AttentionRule
from engine.model.experts import Experts, gate
from engine.model.rope import rotate


class Attention(Protocol):
    """Causal attention of one layer, with whatever KV cache it needs."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """Store k and v of the step's tokens, then attend as the layer's `rule` says.

        q [T, heads, D] and k [T, kv_heads, D] have RoPE applied; v [T, kv_heads, D]. Returns [T, heads * D].
        """
        ...


class RMSNorm(nn.Module):
    """x * weight / sqrt(mean(x^2) + eps). `replacement`, if set, is a faster implementation for the device.

    The weight has x's dtype, or float32: then the product is rounded once, at the end.
    """

    replacement: nn.Module | None

    def __init__(self, dim: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim, dtype=dtype, device="meta"), requires_grad=False)
        self.replacement = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] -> [..., dim], in x's dtype; the sum is in float32."""
        if self.replacement is not None:
            result: Tensor = self.replacement(x)
            return result
        if x.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        x32 = x.float()  # 16 bits are too few for the sum of squares
        scaled = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        if self.weight.dtype == torch.float32:
            return (scaled * self.weight).to(x.dtype)
        return scaled.to(x.dtype) * self.weight


class Block(nn.Module):
    """One transformer layer: attention and a gated feed-forward, both with pre-norm and residual.

    Fused weights of this rank: wqkv's rows are its query heads, key heads, value heads; w13's are w1 (gate), w3 (up).
    A mixture of experts has `experts` in place of the last two matrices. Norms that not every architecture has are None
    where it has none.
    """

    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    post_attention_norm: RMSNorm | None
    post_ffn_norm: RMSNorm | None

    def __init__(self, spec: ModelSpec, layer: int, world_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        blocks = spec.architecture
        self.heads, self.kv_heads = spec.n_heads // world_size, kv_heads(spec, world_size)
        self.head_dim, self.ffn = spec.head_dim, ffn_width(spec, world_size)
        self.rule = AttentionRule(blocks.attention_scale, blocks.attention_softcap, spec.window(layer))
        self._gelu = blocks.uses_gelu
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim

        def norm(dim: int) -> RMSNorm:
            return RMSNorm(dim, spec.norm_eps, torch.float32 if blocks.float32_norms else dtype)

        def column(rows: int, *, bias: bool) -> ColumnLinear:
            return ColumnLinear(spec.dim, rows, world_size=world_size, dtype=dtype, bias=bias)

        def row(columns: int, *, bias: bool) -> RowLinear:
            return RowLinear(columns, spec.dim, world_size=world_size, dtype=dtype, bias=bias)

        self.attention_norm = norm(spec.dim)
        self.wqkv = column(rows, bias=blocks.qkv_bias)
        self.q_norm, self.k_norm = (norm(spec.head_dim) if blocks.qk_norm else None for _ in range(2))
        self.wo = row(self.heads * self.head_dim, bias=blocks.output_bias)
        self.post_attention_norm = norm(spec.dim) if blocks.post_norms else None
        self.ffn_norm = norm(spec.dim)
        self.experts = Experts(spec, world_size, dtype) if blocks.experts else None
        if not blocks.experts:
            self.w13 = column(2 * self.ffn, bias=blocks.ffn_bias)
            self.w2 = row(self.ffn, bias=blocks.ffn_bias)
        self.post_ffn_norm = norm(spec.dim) if blocks.post_norms else None

    @property
    def feed_forwards(self) -> list[tuple[ColumnLinear, RowLinear]]:
        """(w13, w2) of the block, or of each expert."""
        if self.experts is None:
            return [(self.w13, self.w2)]
        return [(expert.w13, expert.w2) for expert in self.experts.all]

    @property
    def linears(self) -> list[ColumnLinear | RowLinear]:
        """All layers whose matrices may be quantized."""
        return [self.wqkv, self.wo, *(linear for pair in self.feed_forwards for linear in pair)]

    def forward(self, x: Tensor, rope: Tensor, layer: int, attend: Attention) -> Tensor:
        """x [T, dim], rope [T, 1, D / 2] complex -> [T, dim]; `layer` is passed on to `attend`."""
        attended = self.wo(self._attention(self.attention_norm(x), rope, layer, attend))
        x = x + (attended if self.post_attention_norm is None else self.post_attention_norm(attended))
        y = self.ffn_norm(x)
        fed = self.w2(gate(self.w13(y), gelu=self._gelu)) if self.experts is None else self.experts(y)
        result: Tensor = x + (fed if self.post_ffn_norm is None else self.post_ffn_norm(fed))
        return result

    def _attention(self, x: Tensor, rope: Tensor, layer: int, attend: Attention) -> Tensor:
        qkv = self.wqkv(x).view(len(x), -1, self.head_dim)
        qk, v = qkv[:, : self.heads + self.kv_heads], qkv[:, self.heads + self.kv_heads :]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(qk[:, : self.heads]), self.k_norm(qk[:, self.heads :])
            return attend(layer, rotate(q, rope), rotate(k, rope), v, self.rule)
        rotated = rotate(qk, rope)
        return attend(layer, rotated[:, : self.heads], rotated[:, self.heads :], v, self.rule)


class Transformer(nn.Module):
    """This rank's shard of the model. Its parameters have no storage until `loader.load_model` fills them.

    `rope` is the RoPE table, complex64 [max_context, head_dim / 2] (see `model.rope`). `local_rope` is that of the
    layers with a window, None if they use the same.
    """

    rope: Tensor
    local_rope: Tensor | None

    def __init__(self, spec: ModelSpec, *, rank: int = 0, world_size: int = 1, dtype: torch.dtype) -> None:
        check_divisible(spec, world_size)
        super().__init__()
        self.spec, self.rank, self.world_size, self.dtype = spec, rank, world_size, dtype
        self.tok_embeddings = Embedding(spec.vocab_size, spec.dim, dtype=dtype)
        self.layers = nn.ModuleList(Block(spec, n, world_size, dtype) for n in range(spec.n_layers))
        wide = spec.architecture.float32_norms
        self.norm = RMSNorm(spec.dim, spec.norm_eps, torch.float32 if wide else dtype)
        self.output = OutputLinear(spec.dim, spec.vocab_size, rank=rank, world_size=world_size, dtype=dtype)
        self.register_buffer("rope", None, persistent=False)
        self.register_buffer("local_rope", None, persistent=False)

    @property
    def blocks(self) -> list[Block]:
        """`layers`, typed."""
        return cast("list[Block]", list(self.layers))

    @property
    def adds_products_directly(self) -> bool:
        """Whether products of wo and w2 are added to the residual stream as they are. Only then is there a fused path.

        That is: no bias, no post-norm, no experts.
        """
        blocks = self.spec.architecture
        return not (blocks.post_norms or blocks.output_bias or blocks.ffn_bias or blocks.experts)

    @property
    def kv_heads(self) -> int:
        """Key/value heads of this rank."""
        return kv_heads(self.spec, self.world_size)

    def forward(self, token_ids: Tensor, positions: Tensor, attend: Attention) -> Tensor:
        """Token ids and positions, both int64 [T] -> hidden states after the final norm, [T, dim]."""
        x = self.embed(token_ids)
        rope = self.rope[positions].unsqueeze(1)
        local_rope = rope if self.local_rope is None else self.local_rope[positions].unsqueeze(1)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope if block.rule.window is None else local_rope, layer, attend)
        result: Tensor = self.norm(x)
        return result

    def embed(self, token_ids: Tensor) -> Tensor:
        """[T] -> [T, dim], scaled."""
        x: Tensor = self.tok_embeddings(token_ids)
        scale = self.spec.architecture.embedding_scale
        return x if scale == 1 else x * torch.tensor(scale, dtype=x.dtype)

    def rope_of(self, block: Block) -> Tensor:
        """The RoPE table of one layer."""
        return self.rope if self.local_rope is None or block.rule.window is None else self.local_rope

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, dim] -> float32 [R, vocab_size], gathered on every rank. Pass only the sampled positions."""
        result: Tensor = self.output(hidden)
        cap = self.spec.architecture.logit_softcap
        return result if cap is None else result.div_(cap).tanh_().mul_(cap)


def padding_ids(model: Transformer) -> Tensor | None:
    """The vocabulary's padding, whose logits a runner sets to -inf before it samples; None for a model without any."""
    ids = model.spec.padding_ids
    return torch.tensor(ids, dtype=torch.int64, device=model.rope.device) if ids else None
