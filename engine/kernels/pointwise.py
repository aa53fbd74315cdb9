"""The small kernels between the products: embedding, norms, the gate, and the bookkeeping of the batch's rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit
def apply_kernel(
    control, temperatures, top_ps, seeds, tables, table_stride,
    SETUPS_AT: tl.constexpr, GRANTS_AT: tl.constexpr, SETUPS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """New requests' sampling settings and newly granted pages, from the step's control block into the rows' state.

    control: [0] setups, [1] grants; setups as (row, temperature bits, top-p bits, seed low, seed high) from SETUPS_AT;
    grants as (row, index, page) from GRANTS_AT.
    """
    grid_wait(PDL)
    launch_dependents(PDL)
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    ok = at < tl.load(control + 1)
    grant = control + GRANTS_AT + at * 3
    row = tl.load(grant, mask=ok, other=0)
    index = tl.load(grant + 1, mask=ok, other=0)
    page = tl.load(grant + 2, mask=ok, other=0)
    tl.store(tables + row * table_stride + index, page, mask=ok)
    if program == 0:
        i = tl.arange(0, SETUPS)
        some = i < tl.load(control)
        setup = control + SETUPS_AT + i * 5
        target = tl.load(setup, mask=some, other=0)
        temperature = tl.load(setup + 1, mask=some, other=0)
        top_p = tl.load(setup + 2, mask=some, other=0)
        tl.store(temperatures + target, temperature.to(tl.float32, bitcast=True), mask=some)
        tl.store(top_ps + target, top_p.to(tl.float32, bitcast=True), mask=some)
        tl.store(seeds + target * 2, tl.load(setup + 3, mask=some, other=0), mask=some)
        tl.store(seeds + target * 2 + 1, tl.load(setup + 4, mask=some, other=0), mask=some)


@triton.jit
def embed_kernel(
    table, slot_rows, last_tokens, chunk_tokens, n_slots, gain, h, scaled, squares,
    DIM: tl.constexpr, BLOCK: tl.constexpr, BM: tl.constexpr, SCALED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A token per program: slots feed their row's last token, the tokens behind them come from the chunks."""
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
    ok = d < DIM
    value = tl.load(table + token.to(tl.int64) * DIM + d, mask=ok, other=0.0)
    at = i.to(tl.int64) * DIM + d
    tl.store(h + at, value, mask=ok)
    if SCALED:
        wide = value.to(tl.float32)
        g = tl.load(gain + d, mask=ok, other=0.0).to(tl.float32)
        tl.store(scaled + at, (wide * g).to(scaled.dtype.element_ty), mask=ok)
        tl.store(squares + i % BM, tl.sum(wide * wide, 0))


@triton.jit
def norm_kernel(
    h, delta, gain, sources, out, eps,
    DIM: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, GATHER: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[i] = RMSNorm(h[i] + delta[i]) · gain, the sum kept in h; or of h[sources[i]] alone."""
    i = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    ok = d < DIM
    g = tl.load(gain + d, mask=ok, other=0.0).to(tl.float32)
    grid_wait(PDL)
    launch_dependents(PDL)
    source = i
    if GATHER:
        source = tl.maximum(tl.load(sources + i), 0).to(tl.int64)
    value = tl.load(h + source * DIM + d, mask=ok, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(delta + source * DIM + d, mask=ok, other=0.0).to(tl.float32)
        kept = value.to(h.dtype.element_ty)
        tl.store(h + source * DIM + d, kept, mask=ok)
        value = kept.to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, 0) / DIM + eps) * g
    tl.store(out + i * DIM + d, value.to(out.dtype.element_ty), mask=ok)


@triton.jit
def gather_kernel(
    h, x, sources, h_out, x_out,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """h_out[i] = h[sources[i]], x_out[i] = x[sources[i]]."""
    i = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    grid_wait(PDL)
    launch_dependents(PDL)
    source = tl.load(sources + i).to(tl.int64)
    tl.store(h_out + i * DIM + d, tl.load(h + source * DIM + d, mask=d < DIM, other=0.0), mask=d < DIM)
    tl.store(x_out + i * WIDTH + d, tl.load(x + source * WIDTH + d, mask=d < WIDTH, other=0.0), mask=d < WIDTH)


@triton.jit
def silu_mul_kernel(x, out, F: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out[i] = silu(gate) · up, where x[i] holds the gate's F values and then the up values."""
    block = tl.program_id(0)
    i = tl.program_id(1).to(tl.int64)
    f = block * BLOCK + tl.arange(0, BLOCK)
    ok = f < F
    grid_wait(PDL)
    launch_dependents(PDL)
    gate = tl.load(x + i * (2 * F) + f, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(x + i * (2 * F) + F + f, mask=ok, other=0.0).to(tl.float32)
    tl.store(out + i * F + f, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=ok)


@triton.jit
def advance_kernel(
    ids, sample_rows, sample_positions, last_tokens, positions, epoch, N, SITES: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """The sampled ids become the rows' next tokens (0 for a row without a valid one) and the positions move on."""
    grid_wait(PDL)
    launch_dependents(PDL)
    i = tl.arange(0, BLOCK)
    row = tl.load(sample_rows + i, mask=i < N, other=-1)
    ok = row >= 0
    token = tl.load(ids + i, mask=ok, other=0)
    tl.store(last_tokens + row, tl.maximum(token, 0), mask=ok)
    given = tl.load(sample_positions + i, mask=ok, other=0)
    here = tl.load(positions + row, mask=ok, other=0)
    tl.store(positions + row, tl.where(given < 0, here + 1, given), mask=ok)
    if SITES > 0:
        tl.store(epoch, tl.load(epoch) + SITES)


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
    pdl: bool = False,
) -> None:
    """Embedding rows of the step's tokens into h; with `scaled`, also what the first fused product needs."""
    dim = table.shape[1]
    bm = squares.shape[-1] if squares is not None else 1
    embed_kernel[(tokens,)](
        table, slot_rows, last_tokens, chunk_tokens, slot_rows.shape[0],
        gain if gain is not None else h, h, scaled if scaled is not None else h, squares if squares is not None else h,
        DIM=dim, BLOCK=triton.next_power_of_2(dim), BM=bm, SCALED=scaled is not None, PDL=pdl,
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
    pdl: bool = False,
) -> None:
    dim = h.shape[-1]
    norm_kernel[(tokens,)](
        h, delta if delta is not None else h, gain, sources if sources is not None else h, out, eps,
        DIM=dim, BLOCK=triton.next_power_of_2(dim), ADD=delta is not None, GATHER=sources is not None, PDL=pdl,
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
    """Rows `sources` [n] of h and x, each of them one of the step's tokens."""
    dim, width = h.shape[-1], x.shape[-1]
    block = int(triton.next_power_of_2(max(dim, width)))
    gather_kernel[(sources.shape[0],)](
        h, x, sources, h_out, x_out, DIM=dim, WIDTH=width, BLOCK=block, PDL=pdl,
        num_warps=_warps(block), launch_pdl=pdl,
    )  # fmt: skip


def silu_mul(x: torch.Tensor, out: torch.Tensor, tokens: int, *, pdl: bool = False) -> None:
    ffn = out.shape[-1]
    block = min(4096, triton.next_power_of_2(ffn))
    silu_mul_kernel[(triton.cdiv(ffn, block), tokens)](
        x, out, F=ffn, BLOCK=block, PDL=pdl, num_warps=_warps(block), launch_pdl=pdl
    )


def _warps(width: int) -> int:
    return max(1, min(8, int(triton.next_power_of_2(width)) // 256))


def apply(
    control: torch.Tensor,
    temperatures: torch.Tensor,
    top_ps: torch.Tensor,
    seeds: torch.Tensor,
    tables: torch.Tensor,
    *,
    setups_at: int,
    grants_at: int,
    setups: int,
    grants: int,
    pdl: bool = False,
) -> None:
    """`setups` and `grants` are the most that the control block can hold."""
    apply_kernel[(triton.cdiv(grants, 256),)](
        control, temperatures, top_ps, seeds, tables, tables.stride(0),
        SETUPS_AT=setups_at, GRANTS_AT=grants_at, SETUPS=triton.next_power_of_2(setups), BLOCK=256, PDL=pdl,
        num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


def advance(
    ids: torch.Tensor,
    sample_rows: torch.Tensor,
    sample_positions: torch.Tensor,
    last_tokens: torch.Tensor,
    positions: torch.Tensor,
    *,
    epoch: torch.Tensor | None = None,
    sites: int = 0,
    pdl: bool = False,
) -> None:
    """A sample position of -1 means: one behind where the row is. `epoch` moves on by the step's `sites`."""
    count = ids.shape[0]
    advance_kernel[(1,)](
        ids, sample_rows, sample_positions, last_tokens, positions, epoch if epoch is not None else ids, count,
        SITES=sites, BLOCK=triton.next_power_of_2(count), PDL=pdl, num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
