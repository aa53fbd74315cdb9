"""The small kernels of the residual stream: embedding, RMSNorm, and the rows of some tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def embed_kernel(
    table, slot_rows, last_tokens, chunk_tokens, n_slots, gain, h, scaled, squares,
    DIM: tl.constexpr, BLOCK: tl.constexpr, BM: tl.constexpr, SCALED: tl.constexpr, SCALE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One token per program. Pointers: see `embed`; SCALED: also write `scaled` and `squares` [BM]."""
    i = tl.program_id(0)
    grid_wait(PDL)
    launch_dependents(PDL)
    token = tl.zeros([], tl.int32)
    if i < n_slots:
        row = tl.load(slot_rows + i)
        if row >= 0:
            token = tl.load(last_tokens + row)
    else:
        token = tl.load(chunk_tokens + i - n_slots)
    d = tl.arange(0, BLOCK)
    mask = d < DIM
    value = tl.load(table + token.to(tl.int64) * DIM + d, mask=mask, other=0.0)
    if SCALE != 1.0:
        value = (value.to(tl.float32) * SCALE).to(h.dtype.element_ty)
    at = i.to(tl.int64) * DIM + d
    tl.store(h + at, value, mask=mask)
    if SCALED:
        value32 = value.to(tl.float32)
        g = tl.load(gain + d, mask=mask, other=0.0).to(tl.float32)
        tl.store(scaled + at, (value32 * g).to(scaled.dtype.element_ty), mask=mask)
        tl.store(squares + i % BM, tl.sum(value32 * value32, 0))


@triton.jit
def norm_kernel(
    h, delta, gain, sources, out, bias, post_gain, eps,
    DIM: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, GATHER: tl.constexpr, BIAS: tl.constexpr,
    POST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token per program. Pointers: see `norm`; ADD: with `delta`; GATHER: with `sources`; BIAS, POST: of delta.

    A changed delta is rounded where plain torch rounds it.
    """
    i = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    mask = d < DIM
    g = tl.load(gain + d, mask=mask, other=0.0).to(tl.float32)
    grid_wait(PDL)
    launch_dependents(PDL)
    source = i
    if GATHER:
        source = tl.maximum(tl.load(sources + i), 0).to(tl.int64)
    value = tl.load(h + source * DIM + d, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        added = tl.load(delta + source * DIM + d, mask=mask, other=0.0).to(tl.float32)
        if BIAS:
            added += tl.load(bias + d, mask=mask, other=0.0).to(tl.float32)
            added = added.to(h.dtype.element_ty).to(tl.float32)
        if POST:
            added = added * tl.rsqrt(tl.sum(added * added, 0) / DIM + eps)
            added = added * tl.load(post_gain + d, mask=mask, other=0.0).to(tl.float32)
            added = added.to(h.dtype.element_ty).to(tl.float32)
        value += added
        stored = value.to(h.dtype.element_ty)
        tl.store(h + source * DIM + d, stored, mask=mask)
        value = stored.to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, 0) / DIM + eps) * g
    tl.store(out + i * DIM + d, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gather_kernel(
    h, x, sources, h_out, x_out,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token per program, of width DIM in h and WIDTH in x. Pointers: see `gather`."""
    i = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    grid_wait(PDL)
    launch_dependents(PDL)
    source = tl.load(sources + i).to(tl.int64)
    tl.store(h_out + i * DIM + d, tl.load(h + source * DIM + d, mask=d < DIM, other=0.0), mask=d < DIM)
    tl.store(x_out + i * WIDTH + d, tl.load(x + source * WIDTH + d, mask=d < WIDTH, other=0.0), mask=d < WIDTH)


def embed(
    table: torch.Tensor,
    slot_rows: torch.Tensor,
    last_tokens: torch.Tensor,
    chunk_tokens: torch.Tensor,
    h: torch.Tensor,
    tokens: int,
    *,
    gain: torch.Tensor | None = None,
    scaled: torch.Tensor | None = None,
    squares: torch.Tensor | None = None,
    scale: float = 1.0,
    pdl: bool = False,
) -> None:
    """h [≥ tokens, dim] = embeddings · scale: of each slot's last token, then of chunk_tokens.

    table [vocab, dim] and h in the model's dtype. slot_rows int32 [slots], -1 for none; last_tokens int32 by row;
    chunk_tokens int32 [tokens − slots]. With `scaled` also writes the inputs of the first fused GEMM: scaled = h · gain
    [dim], and squares float32 [1, BM], each token's sum of squares.
    """
    dim = table.shape[1]
    bm = squares.shape[-1] if squares is not None else 1
    embed_kernel[(tokens,)](
        table, slot_rows, last_tokens, chunk_tokens, slot_rows.shape[0],
        gain if gain is not None else h, h, scaled if scaled is not None else h, squares if squares is not None else h,
        DIM=dim, BLOCK=triton.next_power_of_2(dim), BM=bm, SCALED=scaled is not None, SCALE=scale, PDL=pdl,
        num_warps=row_warps(dim), launch_pdl=pdl,
    )  # fmt: skip


def norm(
    h: torch.Tensor,
    gain: torch.Tensor,
    out: torch.Tensor,
    eps: float,
    tokens: int,
    *,
    delta: torch.Tensor | None = None,
    sources: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    post_gain: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """out [tokens, dim] = RMSNorm(h) · gain [dim].

    With `delta` [tokens, dim], h += delta first, where delta gets `bias` [dim], then becomes RMSNorm(delta) · post_gain
    [dim], if these are given. With `sources` int32 [tokens], out[i] is the norm of h[sources[i]].
    """
    dim = h.shape[-1]
    norm_kernel[(tokens,)](
        h, delta if delta is not None else h, gain, sources if sources is not None else h, out,
        bias if bias is not None else h, post_gain if post_gain is not None else h, eps,
        DIM=dim, BLOCK=triton.next_power_of_2(dim), ADD=delta is not None, GATHER=sources is not None,
        BIAS=bias is not None, POST=post_gain is not None, PDL=pdl,
        num_warps=row_warps(dim), launch_pdl=pdl,
    )  # fmt: skip


def gather(
    h: torch.Tensor,
    x: torch.Tensor,
    sources: torch.Tensor,
    h_out: torch.Tensor,
    x_out: torch.Tensor,
    *,
    pdl: bool = False,
) -> None:
    """h_out [n, dim] = h[sources], x_out [n, width] = x[sources]; sources int32 [n] are tokens of the step."""
    dim, width = h.shape[-1], x.shape[-1]
    block = int(triton.next_power_of_2(max(dim, width)))
    gather_kernel[(sources.shape[0],)](
        h, x, sources, h_out, x_out, DIM=dim, WIDTH=width, BLOCK=block, PDL=pdl,
        num_warps=row_warps(block), launch_pdl=pdl,
    )  # fmt: skip


def row_warps(width: int) -> int:
    """The warps of a program that reads a row this wide."""
    return max(1, min(8, int(triton.next_power_of_2(width)) // 256))
