"""The small kernels between the matrix products: embedding, norm, gate, and updates of the batch's row state."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.attention.attention_rules import soft_cap
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def apply_updates_kernel(
    inputs, temperatures, top_ps, seeds, tables, table_stride,
    SEQUENCES_AT: tl.constexpr, GRANTS_AT: tl.constexpr, SEQUENCES: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """BLOCK page grants per program; program 0 also writes all new sequences, of which there are at most SEQUENCES.

    inputs int32: [0] number of new sequences, [1] number of page grants; new sequences from SEQUENCES_AT on, as (row,
    temperature bits, top-p bits, seed low, seed high); page grants from GRANTS_AT on, as (row, index, page id).
    Other pointers: see `apply_updates`.
    """
    grid_wait(PDL)
    launch_dependents(PDL)
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    is_grant = at < tl.load(inputs + 1)
    grant = inputs + GRANTS_AT + at * 3
    row = tl.load(grant, mask=is_grant, other=0)
    index = tl.load(grant + 1, mask=is_grant, other=0)
    page_id = tl.load(grant + 2, mask=is_grant, other=0)
    tl.store(tables + row * table_stride + index, page_id, mask=is_grant)
    if program == 0:
        i = tl.arange(0, SEQUENCES)
        is_new = i < tl.load(inputs)
        sequence = inputs + SEQUENCES_AT + i * 5
        new_row = tl.load(sequence, mask=is_new, other=0)
        temperature = tl.load(sequence + 1, mask=is_new, other=0)
        top_p = tl.load(sequence + 2, mask=is_new, other=0)
        tl.store(temperatures + new_row, temperature.to(tl.float32, bitcast=True), mask=is_new)
        tl.store(top_ps + new_row, top_p.to(tl.float32, bitcast=True), mask=is_new)
        tl.store(seeds + new_row * 2, tl.load(sequence + 3, mask=is_new, other=0), mask=is_new)
        tl.store(seeds + new_row * 2 + 1, tl.load(sequence + 4, mask=is_new, other=0), mask=is_new)


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


@triton.jit
def gate_mul_kernel(
    x, bias, out, F: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """BLOCK elements of one token per program. Pointers: see `gate_mul`."""
    block = tl.program_id(0)
    i = tl.program_id(1).to(tl.int64)
    f = block * BLOCK + tl.arange(0, BLOCK)
    mask = f < F
    grid_wait(PDL)
    launch_dependents(PDL)
    gate = tl.load(x + i * (2 * F) + f, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + i * (2 * F) + F + f, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        gate += tl.load(bias + f, mask=mask, other=0.0).to(tl.float32)
        up += tl.load(bias + F + f, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + i * F + f, gate_product(gate, up, GELU).to(out.dtype.element_ty), mask=mask)


@triton.jit
def cap_logits_kernel(logits, stride, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, CAP: tl.constexpr, PDL: tl.constexpr):
    """BLOCK logits of one row per program. Pointers: see `cap_logits`."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = logits + tl.program_id(1).to(tl.int64) * stride + column
    grid_wait(PDL)
    launch_dependents(PDL)
    tl.store(at, soft_cap(tl.load(at, mask=column < COLUMNS, other=0.0), CAP), mask=column < COLUMNS)


@triton.jit
def advance_kernel(
    ids, sample_rows, sample_positions, last_tokens, positions, epoch, N,
    COLLECTIVES: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for all N samples. Pointers: see `advance`."""
    grid_wait(PDL)
    launch_dependents(PDL)
    i = tl.arange(0, BLOCK)
    row = tl.load(sample_rows + i, mask=i < N, other=-1)
    mask = row >= 0
    token = tl.load(ids + i, mask=mask, other=0)
    tl.store(last_tokens + row, tl.maximum(token, 0), mask=mask)
    new = tl.load(sample_positions + i, mask=mask, other=0)
    old = tl.load(positions + row, mask=mask, other=0)
    tl.store(positions + row, tl.where(new < 0, old + 1, new), mask=mask)
    if COLLECTIVES > 0:
        tl.store(epoch, tl.load(epoch) + COLLECTIVES)


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
        num_warps=_warps(dim), launch_pdl=pdl,
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
        num_warps=_warps(dim), launch_pdl=pdl,
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
        num_warps=_warps(block), launch_pdl=pdl,
    )  # fmt: skip


def gate_mul(
    x: torch.Tensor,
    out: torch.Tensor,
    tokens: int,
    *,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
    pdl: bool = False,
) -> None:
    """out [tokens, F] = silu(x[:, :F]) · x[:, F:], x [tokens, 2 · F], computed in float32.

    `bias` [2 · F] is added to x first; `gelu` in place of silu.
    """
    ffn = out.shape[-1]
    block = min(4096, triton.next_power_of_2(ffn))
    gate_mul_kernel[(triton.cdiv(ffn, block), tokens)](
        x, x if bias is None else bias, out, F=ffn, BLOCK=block, GELU=gelu, BIAS=bias is not None, PDL=pdl,
        num_warps=_warps(block), launch_pdl=pdl,
    )  # fmt: skip


def cap_logits(logits: torch.Tensor, cap: float, *, pdl: bool = False) -> None:
    """logits float32 [rows, vocab] = cap · tanh(logits / cap), in place; any stride of rows."""
    rows, columns = logits.shape
    cap_logits_kernel[(triton.cdiv(columns, 1024), rows)](
        logits, logits.stride(0), COLUMNS=columns, BLOCK=1024, CAP=cap, PDL=pdl, num_warps=4, launch_pdl=pdl
    )


def _warps(width: int) -> int:
    return max(1, min(8, int(triton.next_power_of_2(width)) // 256))


def apply_updates(
    inputs: torch.Tensor,
    temperatures: torch.Tensor,
    top_ps: torch.Tensor,
    seeds: torch.Tensor,
    tables: torch.Tensor,
    *,
    sequences_at: int,
    grants_at: int,
    max_sequences: int,
    max_grants: int,
    pdl: bool = False,
) -> None:
    """Write a step's new sequences and page grants into the row state.

    inputs int32 is the step's input buffer, with room for max_sequences and max_grants; see the kernel for its layout.
    By row: temperatures and top_ps float32, seeds int32 [rows, 2] (low, high), tables int32 [rows, pages of a row].
    """
    apply_updates_kernel[(triton.cdiv(max_grants, 256),)](
        inputs, temperatures, top_ps, seeds, tables, tables.stride(0),
        SEQUENCES_AT=sequences_at, GRANTS_AT=grants_at, SEQUENCES=triton.next_power_of_2(max_sequences), BLOCK=256,
        PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def advance(
    ids: torch.Tensor,
    sample_rows: torch.Tensor,
    sample_positions: torch.Tensor,
    last_tokens: torch.Tensor,
    positions: torch.Tensor,
    *,
    epoch: torch.Tensor | None = None,
    collectives: int = 0,
    pdl: bool = False,
) -> None:
    """Store the sampled ids as the rows' last tokens (an id of -1 as 0), and advance the rows' positions.

    ids, sample_rows (-1: no sample), sample_positions int32 [n]; last_tokens, positions int32 by row. A row's new
    position is the sample position, or if that is -1, its old position + 1. `epoch` int32 [1] advances by the step's
    `collectives`.
    """
    count = ids.shape[0]
    advance_kernel[(1,)](
        ids, sample_rows, sample_positions, last_tokens, positions, epoch if epoch is not None else ids, count,
        COLLECTIVES=collectives, BLOCK=triton.next_power_of_2(count), PDL=pdl, num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
