"""GEMM for prompts with weights of 8 bits (`engine.model.eight_bit_weight`), without norm, gate or split.

As in `matmul.py`, the weights' rows are the M side of each tl.dot. A warp reads its rows' words in the order in which
the tensor cores read an operand of 16 bits. The low bytes of a line are then the operand of its first 32 columns, and
the high bytes that of the other 32: unpacking moves no data between threads. A warp waits for its product before it
unpacks the next step. Where two programs fit a multiprocessor, the tensor cores can compute the other one's meanwhile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from engine.kernels.eight_bits import unpack_bytes
from engine.kernels.linear.matmul import GemmConfig
from engine.kernels.linear.register_operands import waited_for
from engine.kernels.pdl import grid_wait, launch_dependents


@triton.jit(do_not_specialize=["n_tokens"])
def eight_bit_prompt_matmul_kernel(
    x, words, row_scales, out, N, n_tokens,
    K: tl.constexpr, WORDS: tl.constexpr, FP8: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr, ADD: tl.constexpr, BULK: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of BM tokens and BN weight rows per program. Pointers: see `eight_bit_prompt`.

    WORDS: words of a row; BK: words of a step, of two columns each; STAGES: pipeline depth; BULK: `x` and `words` are
    tensor descriptors, which load zeros past the end.
    """
    first_token = tl.program_id(0) * BM
    first_row = tl.program_id(1) * BN
    tokens = first_token + tl.arange(0, BM)
    rows = first_row + tl.arange(0, BN)
    if not BULK:
        w = words + tl.minimum(rows, N - 1).to(tl.int64)[:, None] * WORDS
        x_rows = x + tl.minimum(tokens, n_tokens - 1).to(tl.int64)[None, :] * K
    grid_wait(PDL)
    launch_dependents(PDL)
    acc = tl.zeros([BN, BM], tl.float32)
    for step in tl.range(0, (WORDS + BK - 1) // BK, num_stages=STAGES):
        word = step * BK + tl.arange(0, BK)[None, :]
        k = step * (2 * BK) + tl.arange(0, 2 * BK)[:, None]
        if BULK:
            packed = words.load([first_row, step * BK])
            xt = x.load([first_token, step * (2 * BK)]).T
        elif K % (2 * BK) == 0:
            packed = tl.load(w + word)
            xt = tl.load(x_rows + k)
        else:
            packed = tl.load(w + word, mask=word < WORDS, other=0)
            xt = tl.load(x_rows + k, mask=k < K, other=0.0)
        parts = tl.join(unpack_bytes(packed, 0, FP8, xt.dtype), unpack_bytes(packed, 1, FP8, xt.dtype))
        parts = tl.permute(parts.reshape(BN, BK // 32, 32, 2), (0, 1, 3, 2))  # row, line, part, column
        acc = waited_for(tl.dot(parts.reshape(BN, 2 * BK), xt, acc, input_precision=PRECISION))
    live = rows < N
    at = tokens[None, :].to(tl.int64) * N + rows[:, None]
    ok = live[:, None] & (tokens < n_tokens)[None, :]
    acc = acc * tl.load(row_scales + rows, mask=live, other=0.0)[:, None]
    if ADD:  # loaded only here: during the loop it would take as many registers as the sums
        acc += tl.load(out + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=ok)


def eight_bit_prompt(
    x: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    config: GemmConfig,
    *,
    fp8: bool,
    bm: int,
    add: bool = False,
    pdl: bool = False,
) -> None:
    """out [tokens, N] = x [tokens, K] · weightᵀ, or with `add` out += …; `bm` tokens a program.

    words int16 [N, lines · 32], of int8 weights or with `fp8` of e4m3 weights; scales float32 [N]. x and out are
    contiguous. `config.bk` counts words, in whole lines of 32, and K is not split. `config.bulk` needs a K that is a
    multiple of 8, and an x of 16 bits.
    """
    tokens, k = x.shape
    rows, row_words = words.shape
    eight_bit_prompt_matmul_kernel[(triton.cdiv(tokens, bm), triton.cdiv(rows, config.bn))](
        TensorDescriptor.from_tensor(x, [bm, 2 * config.bk]) if config.bulk else x,
        TensorDescriptor.from_tensor(words, [config.bn, config.bk]) if config.bulk else words,
        scales, out, rows, tokens,
        K=k, WORDS=row_words, FP8=fp8, BM=bm, BN=config.bn, BK=config.bk, STAGES=config.stages, ADD=add,
        BULK=config.bulk, PDL=pdl, PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=config.warps,
        launch_pdl=pdl,
    )  # fmt: skip
