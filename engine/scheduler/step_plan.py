"""What all ranks do in one step, as plain data.

Rank 0 makes the plan and every rank executes it. A plan therefore names rows, page ids and token ids, never a request,
a client or a time. It knows neither the scheduler nor the model nor the wire format.

A runner applies a plan in this order: `copies`, `freed_rows`, `new_sequences`, `page_grants`, then `chunks`,
`verifications` and `decode_rows` in one forward. In every layer the keys and values of ALL tokens of the step are
written before that layer's attention reads any: a chunk may follow a page that another chunk of the same step computes.
"""

import struct
from dataclasses import dataclass
from typing import Final

from engine.logits_params import Adjustment
from engine.scheduler.kv_cache.page_copies import NO_COPIES, PageCopies

MAX_FINISHED_PROMPTS: Final = 64  # chunks of a step that are the last of their prompts


@dataclass(frozen=True, slots=True)
class NewSequence:
    """A request enters a row of the persistent batch. `temperature` and `top_p` are exact in float32.

    Rank 0 samples for all ranks, so what its logits are adjusted by, and how many log-probabilities it returns, stays
    there: the other ranks only learn that the row is adjusted.
    """

    row: int
    temperature: float
    top_p: float
    seed: int  # 64 bits
    is_adjusted: bool = False
    adjustment: Adjustment | None = None  # rank 0 only; set there if `is_adjusted`
    num_logprobs: int | None = None  # rank 0 only; the most likely tokens to return beside the sampled one


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Prefill of positions [start, start + len(token_ids)).

    `is_last`: sample the next token from the chunk's final position.
    """

    row: int
    start: int
    token_ids: tuple[int, ...]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """A row that decodes with drafts of its next tokens.

    Its input is the token that it sampled last, wherever it stands, then the drafts; a token is sampled after each of
    them. The row goes on after the drafts that equal what was sampled before them (`verification.num_accepted`). The
    keys and values of the others are overwritten by its next step.
    """

    row: int
    drafts: tuple[int, ...]  # at least one

    @property
    def num_samples(self) -> int:
        """Tokens that are computed, and as many are sampled."""
        return len(self.drafts) + 1


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. A page grant is (row, index in the row's page table, page id). Rows with a mask are adjusted ones.

    The input of a decode row is the token that the row sampled last. That token never leaves the device, and the runner
    itself tracks the row's position. A row is at most once in `chunks`, `verifications` and `decode_rows` together.
    """

    step: int
    new_sequences: tuple[NewSequence, ...] = ()
    page_grants: tuple[tuple[int, int, int], ...] = ()
    chunks: tuple[PrefillChunk, ...] = ()
    decode_rows: tuple[int, ...] = ()
    freed_rows: tuple[int, ...] = ()
    copies: PageCopies = NO_COPIES
    token_masks: tuple[tuple[int, bytes], ...] = ()  # rank 0 only: (row, the ids that may be sampled in this step)
    verifications: tuple[Verification, ...] = ()

    @property
    def sampled_rows(self) -> tuple[int, ...]:
        """The row of each sampled token, in the order of the ids: of chunks, verifications, then decode rows."""
        finished = (chunk.row for chunk in self.chunks if chunk.is_last)
        verifying = (each.row for each in self.verifications for _ in range(each.num_samples))
        return (*finished, *verifying, *self.decode_rows)


def float32(value: float) -> float:
    """`value` rounded to float32, so that rank 0 computes with the same number as the ranks that receive it."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded
