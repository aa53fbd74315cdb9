"""Programmatic dependent launch: a kernel starts while its predecessor still runs, and waits only before it touches data.

The rule all kernels here keep: whatever an earlier kernel wrote is read, and anything at all is written, after `wait`;
`release` comes after `wait`. So when a kernel starts, everything up to its predecessor's predecessor is complete, and
weights, page tables and the cached keys of earlier steps may be fetched at once. On devices without the feature, and
in Triton's interpreter, PDL is False and both are nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@triton.jit
def wait(PDL: tl.constexpr):
    """Everything the preceding kernels wrote is visible after this."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def release(PDL: tl.constexpr):
    """The next kernel may begin to start: its programs fill the places that ours leave free."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def publish(ASSEMBLY: tl.constexpr):
    """What all threads of this program have stored is visible to a program that sees an atomic done after this.

    As assembly, because the compiler does not pipeline a loop that holds its own barrier.
    """
    if ASSEMBLY:
        tl.inline_asm_elementwise(
            "fence.acq_rel.gpu; bar.sync 0; mov.b32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )
    else:
        tl.debug_barrier()


@triton.jit
def prefetch_l2(pointers, bytes_each, N: tl.constexpr):
    """Ask for `bytes_each` bytes (a multiple of 16) behind each of N pointers (at most one a thread) to come to the L2
    cache. Nobody waits for them."""
    addresses = pointers.to(tl.int64)
    zeros = tl.zeros_like(addresses).to(tl.int32)
    tl.inline_asm_elementwise(
        "{ .reg .pred p; .reg .u32 t; mov.u32 t, %tid.x; setp.lt.u32 p, t, $3; "
        "@p cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }",
        "=r,l,r,r",
        [addresses, zeros + bytes_each, zeros + N],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def prefetch_ahead(ahead, stride, rows, bytes_each, program, programs, N: tl.constexpr):
    """This program's share of the next kernel's first bytes: `bytes_each` of each of `rows` rows, `stride` bytes apart.

    The last `ceil(rows / N)` of all programs do it, N rows each: they run while the kernel drains and memory idles.
    """
    if N > 0:
        share = program - (programs - (rows + N - 1) // N)
        if share >= 0:
            row = tl.minimum(share * N + tl.arange(0, N), rows - 1).to(tl.int64)
            prefetch_l2(ahead.to(tl.int64) + row * stride, bytes_each, N)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a kernel asks the L2 cache for on behalf of its successor: the beginning of the matrix that this one reads.

    Of each of `rows` rows `stride` bytes apart, `bytes_each`; `per_program` rows a program (at most its threads).
    """

    weight: torch.Tensor
    stride: int
    rows: int
    bytes_each: int
    per_program: int


def ahead_arguments(ahead: Ahead | None, other: torch.Tensor) -> tuple[torch.Tensor, int, int, int, int]:
    """As kernel arguments; `other` stands in for no matrix, and N = 0 compiles the prefetch away."""
    if ahead is None:
        return other, 16, 16, 16, 0
    return ahead.weight, ahead.stride, ahead.rows, ahead.bytes_each, ahead.per_program


def supported(device: torch.device) -> bool:
    """Hopper and later can; GUILDLLAMA_PDL=0 turns it off for comparisons."""
    if device.type != "cuda" or os.environ.get("GUILDLLAMA_PDL", "1") == "0":
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)
