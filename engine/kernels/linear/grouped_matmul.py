"""Products of pairs of a token and an expert with the expert's own matrix, quantized or not; see `experts.py`.

As in `matmul.py`, the weights' rows are the M side of each tl.dot. The experts' matrices lie anywhere in memory: a
table has the distance of each from the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.activation import gate_product
from engine.kernels.linear.eight_bit_matmul import eight_bit_dot
from engine.kernels.linear.int4.operand import dequantize_half, load_pairs, load_words, operand_rows, two_pairs
from engine.kernels.pdl import grid_wait, launch_dependents
from engine.model.eight_bit_weight import EightBitWeight
from engine.model.int4_weight import Int4Weight
from engine.model.quantized_weight import QuantizedWeight

_ALIGNMENT = 16  # bytes of the widest load


@triton.jit
def _int4_products(
    acc, acc_up, x, words, groups, first, N, token,
    K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr, GATE: tl.constexpr, FORMAT: tl.constexpr,
    ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(acc, acc_up) float32 [WARPS · 16, BM] plus the products of rows `first` … with x's rows `token` [BM]."""
    TILES: tl.constexpr = (K + 255) // 256
    PLANES: tl.constexpr = 2 if FORMAT == 2 else 1
    w = tl.minimum(operand_rows(first, WARPS), N - 1)
    for line in tl.range(0, (K + 127) // 128, num_stages=STAGES):
        tile = line // 2
        half = line % 2
        k = line * 128 + tl.arange(0, 128)
        if K % 128 == 0:
            xt = tl.load(x + k[:, None] + token[None, :] * K)
        else:
            xt = tl.load(x + k[:, None] + token[None, :] * K, mask=(k < K)[:, None], other=0.0)
        word = load_words(words, w, tile, half, TILES)
        a, b = two_pairs(load_pairs(groups, w, tile, half * 2, 0, 2, TILES, PLANES), 0, WARPS)
        offset_a = a
        offset_b = b
        if FORMAT == 2:
            offset_a, offset_b = two_pairs(load_pairs(groups, w, tile, half * 2, 1, 2, TILES, PLANES), 0, WARPS)
        wt = dequantize_half(word, a, b, offset_a, offset_b, xt.dtype, FORMAT, WARPS, ASM)
        acc = tl.dot(wt, xt, acc, input_precision=PRECISION)
        if GATE:
            word = load_words(words, w + N, tile, half, TILES)
            a, b = two_pairs(load_pairs(groups, w + N, tile, half * 2, 0, 2, TILES, PLANES), 0, WARPS)
            offset_a = a
            offset_b = b
            if FORMAT == 2:
                offset_a, offset_b = two_pairs(load_pairs(groups, w + N, tile, half * 2, 1, 2, TILES, PLANES), 0, WARPS)
            ut = dequantize_half(word, a, b, offset_a, offset_b, xt.dtype, FORMAT, WARPS, ASM)
            acc_up = tl.dot(ut, xt, acc_up, input_precision=PRECISION)
    return acc, acc_up


@triton.jit
def grouped_matmul_kernel(
    x, weight, row_scales, groups, offsets, order, block_experts, num_blocks, out, N,
    EXPERTS: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    PER: tl.constexpr, GATE: tl.constexpr, GELU: tl.constexpr, BITS: tl.constexpr, ALIGN: tl.constexpr,
    FP8: tl.constexpr, FORMAT: tl.constexpr, ASM: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of BM pairs and BN rows of its expert's matrix per program. Pointers: see `grouped_matmul`.

    PER: pairs that share a row of x; GATE: up rows follow the N gate rows; ALIGN: elements that the offsets of `weight`
    are multiples of; FP8: those of 8 bits are e4m3; FORMAT: of 4 bits' groups; the rest as in `matmul_kernel`.
    """
    block = tl.program_id(0)
    tile = tl.program_id(1)
    grid_wait(PDL)
    launch_dependents(PDL)
    if block < tl.load(num_blocks):
        expert = tl.load(block_experts + block)
        pair = tl.load(order + block * BM + tl.arange(0, BM))
        is_pair = pair >= 0
        pair = tl.where(is_pair, pair, 0).to(tl.int64)
        token = pair // PER
        rows = tile * BN + tl.arange(0, BN)
        live = rows < N
        w_rows = tl.where(live, rows, 0).to(tl.int64)
        own = weight + tl.multiple_of(tl.load(offsets + expert), ALIGN)
        acc = tl.zeros([BN, BM], tl.float32)
        acc_up = tl.zeros([BN, BM], tl.float32)
        if BITS == 16:
            w = own + w_rows * K
            up = own + (w_rows + N) * K
            for step in tl.range(0, (K + BK - 1) // BK, num_stages=STAGES):
                k = step * BK + tl.arange(0, BK)
                if K % BK == 0:
                    xt = tl.load(x + k[:, None] + token[None, :] * K)
                    wt = tl.load(w[:, None] + k[None, :])
                    if GATE:
                        ut = tl.load(up[:, None] + k[None, :])
                else:
                    ok = k < K
                    xt = tl.load(x + k[:, None] + token[None, :] * K, mask=ok[:, None], other=0.0)
                    wt = tl.load(w[:, None] + k[None, :], mask=ok[None, :], other=0.0)
                    if GATE:
                        ut = tl.load(up[:, None] + k[None, :], mask=ok[None, :], other=0.0)
                acc = tl.dot(wt, xt, acc, input_precision=PRECISION)
                if GATE:
                    acc_up = tl.dot(ut, xt, acc_up, input_precision=PRECISION)
        else:
            own_groups = groups + tl.load(offsets + 2 * EXPERTS + expert)
            own_scales = row_scales + tl.load(offsets + EXPERTS + expert)
            if BITS == 4:
                acc, acc_up = _int4_products(
                    acc, acc_up, x, own, own_groups, tile * BN, N, token, K, BN // 16, STAGES, GATE, FORMAT, ASM,
                    PRECISION,
                )  # fmt: skip
            else:
                LINES: tl.constexpr = (K + 63) // 64
                w = own + w_rows * (LINES * 32)
                for line in tl.range(0, LINES, num_stages=STAGES):
                    acc, acc_up = eight_bit_dot(
                        acc, acc_up, x, w, w + N.to(tl.int64) * (LINES * 32), token, line * 32 + tl.arange(0, 32),
                        LINES * 32, K, FP8, GATE, K % 64 != 0, PRECISION,
                    )  # fmt: skip
            acc = acc * tl.load(own_scales + w_rows)[:, None]
            if GATE:
                acc_up = acc_up * tl.load(own_scales + w_rows + N)[:, None]
        if GATE:
            acc = gate_product(acc, acc_up, GELU)
        at = out + pair[None, :] * N + rows[:, None]
        tl.store(at, acc.to(out.dtype.element_ty), mask=live[:, None] & is_pair[None, :])


@dataclass(frozen=True, slots=True)
class ExpertMatrices:
    """The same matrix [rows, columns] of all experts, all quantized with `bits` bits or, with 16, none.

    `tensors`: the first expert's matrix, or its words, row scales and groups. `offsets` int64 [3, experts]: the
    elements from these to each expert's; those of the matrix or words are multiples of `alignment`.
    """

    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    offsets: torch.Tensor
    shape: tuple[int, int]
    bits: int
    fp8: bool
    alignment: int
    format: int = 0  # of 4-bit weights' groups

    @staticmethod
    def of(weights: Sequence[torch.Tensor | QuantizedWeight]) -> ExpertMatrices:
        """Those of `weights`, which must outlive the result: it has addresses of them."""
        int4 = [each for each in weights if isinstance(each, Int4Weight)]
        if len({each.format for each in int4}) > 1:
            for each in int4:
                each.add_offsets()
        parts = [
            (each.words, each.scales, each.groups) if isinstance(each, QuantizedWeight) else (each, each, each)
            for each in weights
        ]
        offsets = [
            [(part[kind].data_ptr() - parts[0][kind].data_ptr()) // part[kind].element_size() for part in parts]
            for kind in range(3)
        ]
        wide = _ALIGNMENT // parts[0][0].element_size()
        first = weights[0]
        rows, columns = first.shape
        return ExpertMatrices(
            parts[0], torch.tensor(offsets, dtype=torch.int64, device=parts[0][0].device), (rows, columns),
            first.bits if isinstance(first, QuantizedWeight) else 16, isinstance(first, EightBitWeight) and first.fp8,
            wide if all(offset % wide == 0 for offset in offsets[0]) else 1, int4[0].format if int4 else 0,
        )  # fmt: skip


def grouped_matmul(
    x: torch.Tensor,
    matrices: ExpertMatrices,
    out: torch.Tensor,
    order: torch.Tensor,
    block_experts: torch.Tensor,
    num_blocks: torch.Tensor,
    *,
    blocks: int,
    block: int,
    per_row: int,
    gated: bool = False,
    gelu: bool = False,
    pdl: bool = False,
) -> None:
    """out[p] = x[p // per_row] · weightᵀ of pair p's expert, for all pairs in `order`; see `experts.arrange`.

    x [rows, K] and out [pairs, N], contiguous in the model's dtype. `gated`: a matrix is [2 · N, K], gate rows before
    up rows, and out = silu(gate) · up, or with `gelu` gelu(gate) · up. At most `blocks` blocks of `block` pairs.
    """
    rows, k = matrices.shape
    n = rows // 2 if gated else rows
    weight, scales, groups = matrices.tensors
    bn = 32 if x.dtype == torch.float32 or n < 64 else 64
    grouped_matmul_kernel[(blocks, triton.cdiv(n, bn))](
        x, weight, scales, groups, matrices.offsets, order, block_experts, num_blocks, out, n,
        EXPERTS=matrices.offsets.shape[1], K=k, BM=block, BN=bn, BK=32 if x.dtype == torch.float32 else 64, STAGES=3,
        PER=per_row, GATE=gated, GELU=gelu, BITS=matrices.bits, ALIGN=matrices.alignment, FP8=matrices.fp8,
        FORMAT=matrices.format, ASM=x.is_cuda, PDL=pdl,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
