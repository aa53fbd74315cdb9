"""Signals between ranks: "I have reached collective `seq`; what I wrote before can be read".

A rank writes epoch + seq into a flag that each peer keeps for it (`put_signal`). A peer that has seen all flags
(`wait_signals`) may read what the ranks wrote before. It knows flags and numbers. It does not know what is exchanged.
"""

from __future__ import annotations

import triton
import triton.language as tl

from engine.distributed.symmetric_memory import SymmetricMemory
from engine.kernels.interpreter import INTERPRETED


@triton.jit
def put_signal(flags, epoch, seq, RANK: tl.constexpr, WORLD: tl.constexpr):
    """Tell all other ranks that this rank has reached collective `seq`, and that what it wrote before can be read.

    flags: of every rank, int32 [WORLD]; flags[r][s] is what rank s last signalled to rank r. epoch int32 [1].
    """
    now = tl.load(epoch) + seq
    fence()  # once for all: with release semantics each exchange would wait until the previous one has reached its peer
    for other in tl.static_range(WORLD):
        if other != RANK:
            tl.atomic_xchg(flags[other] + RANK, now, sem="relaxed", scope="sys")


@triton.jit
def fence():
    """Makes what this thread has written or seen visible to all GPUs before what it writes next."""
    if not INTERPRETED:
        tl.inline_asm_elementwise("fence.acq_rel.sys; mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def wait_signals(flags, epoch, seq, RANK: tl.constexpr, WORLD: tl.constexpr, LANES: tl.constexpr):
    """Wait until all other ranks have reached collective `seq`. LANES: a power of two, at least WORLD."""
    now = tl.load(epoch) + seq
    while _missing(flags, now, RANK, WORLD, LANES) > 0:
        pass
    tl.debug_barrier()  # all threads read what the peers wrote only after one of them has seen the signals


@triton.jit
def _missing(flags, now, RANK: tl.constexpr, WORLD: tl.constexpr, LANES: tl.constexpr):
    """1 if a signal is missing, else 0. The subtraction stays right when the counter overflows."""
    other = tl.arange(0, LANES)
    needed = (other < WORLD) & (other != RANK)
    seen = tl.atomic_add(flags[RANK] + other, tl.zeros([LANES], tl.int32), mask=needed, sem="acquire", scope="sys")
    return tl.max((needed & (seen - now < 0)).to(tl.int32), 0)


def lanes(memory: SymmetricMemory) -> int:
    """The number of ranks, rounded up to a power of two."""
    return int(triton.next_power_of_2(memory.world_size))
