"""Before and after a step that verifies drafts: where its tokens stand, and where its rows go on.

Only the device knows which token a row sampled last and where, as the host launches steps ahead. So it also compares
what it sampled with the drafts, and the next step needs no word of the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.pdl import grid_wait, launch_dependents

MAX_RUN = 16  # new tokens of a row: the one that it sampled last, and its drafts
RUN = 4  # ints of a run


@triton.jit
def place_tokens_kernel(
    rows, offsets, drafts, last_tokens, positions, tokens, token_positions, sample_positions,
    N, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for all N tokens. Pointers: see `place_tokens`."""
    grid_wait(PDL)
    launch_dependents(PDL)
    i = tl.arange(0, BLOCK)
    exists = i < N
    row = tl.load(rows + i, mask=exists, other=-1)
    offset = tl.load(offsets + i, mask=exists, other=0)
    draft = tl.load(drafts + i, mask=exists, other=0)
    live = row >= 0
    last = tl.load(last_tokens + row, mask=live, other=0)
    position = tl.load(positions + row, mask=live, other=0) + offset
    tl.store(tokens + i, tl.where(live, tl.where(offset == 0, last, draft), 0), mask=exists)
    tl.store(token_positions + i, tl.where(live, position, 0), mask=exists)
    tl.store(sample_positions + i, tl.where(live, position + 1, 0), mask=exists)


@triton.jit
def accept_drafts_kernel(
    ids, drafts, runs, last_tokens, positions, epoch,
    RUN: tl.constexpr, COLLECTIVES: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for each run. Pointers: see `accept_drafts`."""
    grid_wait(PDL)
    launch_dependents(PDL)
    run = runs + tl.program_id(0) * RUN
    row = tl.load(run)
    if row >= 0:
        first = tl.load(run + 1)
        num_drafts = tl.load(run + 2) - 1
        i = tl.arange(0, BLOCK)
        is_draft = i < num_drafts
        sampled = tl.load(ids + first + i, mask=is_draft, other=0)
        draft = tl.load(drafts + first + 1 + i, mask=is_draft, other=0)
        accepted = tl.min(tl.where(is_draft & (sampled != draft), i, num_drafts), 0)
        tl.store(last_tokens + row, tl.maximum(tl.load(ids + first + accepted), 0))
        tl.store(positions + row, tl.load(positions + row) + accepted + 1)
    if COLLECTIVES > 0:
        tl.store(epoch, tl.load(epoch) + COLLECTIVES, mask=tl.program_id(0) == 0)


def place_tokens(
    rows: torch.Tensor,
    offsets: torch.Tensor,
    drafts: torch.Tensor,
    last_tokens: torch.Tensor,
    positions: torch.Tensor,
    tokens: torch.Tensor,
    token_positions: torch.Tensor,
    sample_positions: torch.Tensor,
    *,
    pdl: bool = False,
) -> None:
    """Write a step's tokens, their positions, and the positions of what is sampled after them; all int32 [n].

    rows int32 [n]: each token's row, -1 for none. offsets int32 [n]: how far after the row's position it is; at 0 the
    token is the row's last one, then come its drafts int32 [n]. last_tokens, positions int32 by row.
    """
    count = rows.shape[0]
    place_tokens_kernel[(1,)](
        rows, offsets, drafts, last_tokens, positions, tokens, token_positions, sample_positions, count,
        BLOCK=triton.next_power_of_2(count), PDL=pdl, num_warps=1, launch_pdl=pdl,
    )  # fmt: skip


def accept_drafts(
    ids: torch.Tensor,
    drafts: torch.Tensor,
    runs: torch.Tensor,
    last_tokens: torch.Tensor,
    positions: torch.Tensor,
    *,
    epoch: torch.Tensor | None = None,
    collectives: int = 0,
    pdl: bool = False,
) -> None:
    """Rows go on after the drafts that are the ids sampled before them, with the id sampled next (-1 as 0).

    ids int32 [n]: what was sampled after each token; drafts int32 [n]: the tokens, of which each run's first is not
    read. runs int32 [r, RUN]: row (-1: none), its first token, number of tokens (at most MAX_RUN). last_tokens and
    positions int32 by row. `epoch` int32 [1] advances by the step's `collectives`.
    """
    accept_drafts_kernel[(runs.shape[0],)](
        ids, drafts, runs, last_tokens, positions, ids if epoch is None else epoch,
        RUN=RUN, COLLECTIVES=collectives, BLOCK=MAX_RUN, PDL=pdl, num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
