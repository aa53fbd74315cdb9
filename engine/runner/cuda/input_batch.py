"""A step's shape, what the host writes before it, and the rows that live on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BatchShape:
    """A step's shape: slots that decode, and prompt tokens."""

    num_slots: int
    num_prefill_tokens: int

    @property
    def num_tokens(self) -> int:
        return self.num_slots + self.num_prefill_tokens


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What the host writes before a step, views of one buffer. -1 names no row."""

    slot_rows: Tensor
    sample_rows: Tensor
    sample_sources: Tensor  # which of the step's tokens
    sample_positions: Tensor  # of the token to be sampled; -1: one behind where its row is
    chunk_tokens: Tensor
    chunk_rows: Tensor
    chunk_positions: Tensor
    blocks: Tensor  # [n, 4]: row, first token, tokens, first position


@dataclass(frozen=True, slots=True)
class BatchState:
    """The persistent batch, on the device; one row more than there are requests, for nobody."""

    last_tokens: Tensor
    positions: Tensor
    temperatures: Tensor
    top_ps: Tensor
    seeds: Tensor
    page_tables: Tensor

    @staticmethod
    def allocate(rows: int, pages: int, device: torch.device) -> BatchState:
        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        return BatchState(
            ints(rows), ints(rows), torch.zeros(rows, device=device), torch.ones(rows, device=device), ints(rows, 2),
            ints(rows, -(-pages // 4) * 4),
        )  # fmt: skip
