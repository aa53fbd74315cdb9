"""The Llama transformer over one flat batch of tokens.

It knows layers, RoPE and this rank's shard of each weight. It does not know rows, pages or requests: attention is a
callable that takes a layer's queries, keys and values, and owns the KV cache.

Shapes: T tokens of the batch, D the head size; numbers of heads are those of this rank.
"""

import math
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


class Attention(Protocol):
    """Causal attention of one layer, with whatever KV cache it needs."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v of the step's tokens, then attend.

        q [T, heads, D] and k [T, kv_heads, D] have RoPE applied; v [T, kv_heads, D]. Returns [T, heads * D].
        """
        ...


class RMSNorm(nn.Module):
    """x * weight / sqrt(mean(x^2) + eps). `replacement`, if set, is a faster implementation for the device."""

    replacement: nn.Module | None

    def __init__(self, dim: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim, dtype=dtype, device="meta"), requires_grad=False)
        self.replacement = None

    def forward(self, x: Tensor) -> Tensor:
        """x [T, dim] -> [T, dim], in x's dtype; the sum is in float32."""
        if self.replacement is not None:
            result: Tensor = self.replacement(x)
            return result
        if x.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        x32 = x.float()  # 16 bits are too few for the sum of squares
        scaled = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return scaled.to(x.dtype) * self.weight


class Block(nn.Module):
    """One transformer layer: attention and SwiGLU feed-forward, both with pre-norm and residual.

    Fused weights of this rank: wqkv's rows are its query heads, key heads, value heads; w13's are w1 (gate), w3 (up).
    """

    def __init__(self, spec: ModelSpec, world_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.kv_heads = spec.n_heads // world_size, kv_heads(spec, world_size)
        self.head_dim, self.ffn = spec.head_dim, ffn_width(spec, world_size)
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.attention_norm = RMSNorm(spec.dim, spec.norm_eps, dtype)
        self.wqkv = ColumnLinear(spec.dim, rows, world_size=world_size, dtype=dtype)
        self.wo = RowLinear(self.heads * self.head_dim, spec.dim, world_size=world_size, dtype=dtype)
        self.ffn_norm = RMSNorm(spec.dim, spec.norm_eps, dtype)
        self.w13 = ColumnLinear(spec.dim, 2 * self.ffn, world_size=world_size, dtype=dtype)
        self.w2 = RowLinear(self.ffn, spec.dim, world_size=world_size, dtype=dtype)

    def forward(self, x: Tensor, rope: Tensor, layer: int, attend: Attention) -> Tensor:
        """x [T, dim], rope [T, 1, D / 2] complex -> [T, dim]; `layer` is passed on to `attend`."""
        qkv = self.wqkv(self.attention_norm(x)).view(len(x), -1, self.head_dim)
        rotated = rotate(qkv[:, : self.heads + self.kv_heads], rope)
        q, k = rotated[:, : self.heads], rotated[:, self.heads :]
        x = x + self.wo(attend(layer, q, k, qkv[:, self.heads + self.kv_heads :]))
        gate, up = self.w13(self.ffn_norm(x)).chunk(2, dim=-1)
        result: Tensor = x + self.w2(F.silu(gate).mul_(up))
        return result


class Transformer(nn.Module):
    """This rank's shard of the model. Its parameters have no storage until `loader.load_model` fills them.

    `rope` is the RoPE table, complex64 [max_context, head_dim / 2] (see `rope_table`).
    """

    rope: Tensor

    def __init__(self, spec: ModelSpec, *, rank: int = 0, world_size: int = 1, dtype: torch.dtype) -> None:
        check_divisible(spec, world_size)
        super().__init__()
        self.spec, self.rank, self.world_size, self.dtype = spec, rank, world_size, dtype
        self.tok_embeddings = Embedding(spec.vocab_size, spec.dim, dtype=dtype)
        self.layers = nn.ModuleList(Block(spec, world_size, dtype) for _ in range(spec.n_layers))
        self.norm = RMSNorm(spec.dim, spec.norm_eps, dtype)
        self.output = OutputLinear(spec.dim, spec.vocab_size, rank=rank, world_size=world_size, dtype=dtype)
        self.register_buffer("rope", None, persistent=False)

    @property
    def blocks(self) -> list[Block]:
        """`layers`, typed."""
        return cast("list[Block]", list(self.layers))

    @property
    def kv_heads(self) -> int:
        """Key/value heads of this rank."""
        return kv_heads(self.spec, self.world_size)

    def forward(self, token_ids: Tensor, positions: Tensor, attend: Attention) -> Tensor:
        """Token ids and positions, both int64 [T] -> hidden states after the final norm, [T, dim]."""
        x = self.tok_embeddings(token_ids)
        rope = self.rope[positions].unsqueeze(1)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, layer, attend)
        result: Tensor = self.norm(x)
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, dim] -> float32 [R, vocab_size], gathered on every rank. Pass only the sampled positions."""
        result: Tensor = self.output(hidden)
        return result


def padding_ids(model: Transformer) -> Tensor | None:
    """The vocabulary's padding, whose logits a runner sets to -inf before it samples; None for a model without any."""
    ids = model.spec.padding_ids
    return torch.tensor(ids, dtype=torch.int64, device=model.rope.device) if ids else None


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Apply RoPE to interleaved pairs (Meta's layout): x [T, heads, D] -> same shape and dtype.

    x must be contiguous in its last two dimensions; a float32 x is modified in place. rope: complex [T, 1, D / 2].
    """
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs.mul_(rope)).flatten(-2).to(x.dtype)


def rope_table(spec: ModelSpec, length: int, device: torch.device) -> Tensor:
    """exp(i * position * frequency), complex64 [length, head_dim / 2], with Llama 3.1's scaling if the spec has it."""
    half = torch.arange(0, spec.head_dim, 2, dtype=torch.float32, device=device) / spec.head_dim
    frequency = 1.0 / (spec.rope_theta**half)
    if (scaling := spec.rope_scaling) is not None:
        rotations = scaling.original_context * frequency / (2 * math.pi)  # within the original context
        span = scaling.high_freq_factor - scaling.low_freq_factor
        smooth = ((rotations - scaling.low_freq_factor) / span).clamp(0, 1)
        frequency = frequency * (smooth + (1 - smooth) / scaling.factor)
    angle = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequency)
    return torch.polar(torch.ones_like(angle), angle)
