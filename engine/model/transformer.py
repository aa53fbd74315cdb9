"""The Llama transformer over one flat batch of tokens.

It knows layers, rotary positions and this rank's share of each. It does not know rows, pages or requests: attention is
a callable that gets the layer's queries, keys and values and returns what was attended to.
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
    """Stores k and v of the step's tokens for `layer`, then attends. q: [T, heads, D]; k, v: [T, kv heads, D], with
    rotary positions applied; all heads local to this rank. Returns [T, heads * D]."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class RMSNorm(nn.Module):
    """`replacement`, when set, computes the same in a way that suits the device."""

    replacement: nn.Module | None

    def __init__(self, dim: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim, dtype=dtype, device="meta"), requires_grad=False)
        self.replacement = None

    def forward(self, x: Tensor) -> Tensor:
        if self.replacement is not None:
            result: Tensor = self.replacement(x)
            return result
        if x.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        wide = x.float()  # 16 bits are too few for the sum of squares
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return scaled.to(x.dtype) * self.weight


class Block(nn.Module):
    """One layer. wqkv's rows: this rank's query heads, then its key heads, then its value heads; w13's: gate, up."""

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
        qkv = self.wqkv(self.attention_norm(x)).view(len(x), -1, self.head_dim)
        turned = rotate(qkv[:, : self.heads + self.kv_heads], rope)
        q, k = turned[:, : self.heads], turned[:, self.heads :]
        x = x + self.wo(attend(layer, q, k, qkv[:, self.heads + self.kv_heads :]))
        gate, up = self.w13(self.ffn_norm(x)).chunk(2, dim=-1)
        result: Tensor = x + self.w2(F.silu(gate).mul_(up))
        return result


class Transformer(nn.Module):
    """This rank's share of the model. Built without storage; `load.load_model` fills it.

    `rope` is the table of rotary angles as complex numbers, [max_context, head_dim / 2], 64 bits each.
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
        """The layers, as what they are."""
        return cast("list[Block]", list(self.layers))

    @property
    def kv_heads(self) -> int:
        return kv_heads(self.spec, self.world_size)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attention) -> Tensor:
        """Token ids and positions, both [T] -> hidden states after the last norm, [T, dim]."""
        x = self.tok_embeddings(tokens)
        rope = self.rope[positions].unsqueeze(1)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, layer, attend)
        result: Tensor = self.norm(x)
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, dim] -> [R, vocab] in 32 bits, whole on every rank. Give it only the positions that sample."""
        result: Tensor = self.output(hidden)
        return result


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary positions on neighbouring pairs (Meta's layout), in place where 32 bits allow it. x: [T, heads, D], its
    last two dimensions without gaps; rope: [T, 1, D / 2] complex."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs.mul_(rope)).flatten(-2).to(x.dtype)


def rope_table(spec: ModelSpec, length: int, device: torch.device) -> Tensor:
    """exp(i * position * frequency), [length, head_dim / 2], with Llama 3's stretching of the long wavelengths."""
    half = torch.arange(0, spec.head_dim, 2, dtype=torch.float32, device=device) / spec.head_dim
    frequency = 1.0 / (spec.rope_theta**half)
    if (scaling := spec.rope_scaling) is not None:
        turns = scaling.original_context * frequency / (2 * math.pi)  # within the context that the model was trained on
        span = scaling.high_freq_factor - scaling.low_freq_factor
        keep = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
        frequency = frequency * (keep + (1 - keep) / scaling.factor)
    angle = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequency)
    return torch.polar(torch.ones_like(angle), angle)
