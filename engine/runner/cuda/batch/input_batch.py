"""The data of a step on a GPU: its shape, its inputs, and the persistent batch's rows.

A row is one sequence's place in the persistent batch. A slot is the place of one decoding row in a step. A step's
tokens are its slots' (one token each), then those of its prefill chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.scheduler.step_plan import MAX_FINISHED_PROMPTS


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The numbers of slots and prefill tokens that a step is recorded for; a plan may leave some of them unused.

    `shares_prefixes`: prefixes that several slots share are read once for all of them. `verifies`: the step has no
    slots, and its tokens are not a prompt's but those of rows that decode, some of them with drafts.
    """

    num_slots: int
    num_prefill_tokens: int
    shares_prefixes: bool = False
    verifies: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens of the step, those of unused places included."""
        return self.num_slots + self.num_prefill_tokens

    @property
    def num_samples(self) -> int:
        """Tokens that are sampled: one for each slot, and one for each prompt that may end in the step, or all."""
        if self.verifies:
            return self.num_prefill_tokens
        return self.num_slots + min(self.num_prefill_tokens, MAX_FINISHED_PROMPTS)


@dataclass(frozen=True, slots=True)
class VerifyInputs:
    """What a step has besides, if it verifies drafts; see `engine/kernels/verification.py` and `verify_attention`.

    Its tokens and positions, in the fields of chunks, and `StepInputs.sample_positions` are written on the device.
    """

    offsets: Tensor  # [tokens]
    drafts: Tensor  # [tokens]
    runs: Tensor  # [runs, RUN]
    items: Tensor  # [items, VERIFY_ITEM]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What the host writes before a step: int32 views of one buffer. A row of -1 means an unused place."""

    slot_rows: Tensor  # [slots]
    sample_rows: Tensor  # [samples]
    sample_sources: Tensor  # [samples]: which of the step's tokens the sample's logits come from
    sample_positions: Tensor  # [samples]: of the token to be sampled; -1: one after its row's position
    chunk_tokens: Tensor  # [prefill tokens]
    chunk_rows: Tensor  # [prefill tokens]
    chunk_positions: Tensor  # [prefill tokens]
    query_blocks: Tensor  # [entries, QUERY_BLOCK]; see `chunk_attention`
    # See `engine/kernels/attention/prefix_work.py`; written for shapes that share prefixes.
    prefix_slots: Tensor  # [slots, 2]
    prefix_members: Tensor  # [slots]
    prefix_items: Tensor
    verify: VerifyInputs | None = None


@dataclass(frozen=True, slots=True)
class BatchState:
    """The rows of the persistent batch, on the device."""

    last_tokens: Tensor  # int32 [rows]: the id sampled last, which the row feeds next
    positions: Tensor  # int32 [rows]: tokens computed so far
    temperatures: Tensor  # float32 [rows]
    top_ps: Tensor  # float32 [rows]
    seeds: Tensor  # int32 [rows, 2]: low, high
    page_tables: Tensor  # int32 [rows, pages]: page ids

    @staticmethod
    def allocate(num_rows: int, max_pages_per_seq: int, device: torch.device) -> BatchState:
        """Zeroed state; a page table has a multiple of 4 entries."""

        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        return BatchState(
            ints(num_rows), ints(num_rows), torch.zeros(num_rows, device=device), torch.ones(num_rows, device=device),
            ints(num_rows, 2), ints(num_rows, -(-max_pages_per_seq // 4) * 4),
        )  # fmt: skip
