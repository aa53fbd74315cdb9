"""The small kernels besides `hidden_states`: the gate, the cap of logits, and updates of the batch's row state."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.attention.attention_rules import soft_cap
from engine.kernels.hidden_states import row_warps
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
        num_warps=row_warps(block), launch_pdl=pdl,
    )  # fmt: skip


def cap_logits(logits: torch.Tensor, cap: float, *, pdl: bool = False) -> None:
    """logits float32 [rows, vocab] = cap · tanh(logits / cap), in place; any stride of rows."""
    rows, columns = logits.shape
    cap_logits_kernel[(triton.cdiv(columns, 1024), rows)](
        logits, logits.stride(0), COLUMNS=columns, BLOCK=1024, CAP=cap, PDL=pdl, num_warps=4, launch_pdl=pdl
    )


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
