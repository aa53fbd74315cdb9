"""What one step does, the same on every rank, and its form on the wire: ONE int32 tensor.

Rank 0 alone decides; the others obey. So a plan names rows and pages and token ids, never a request, a client or a
clock. It knows nothing of scheduling, of the model or of how it travels.

Within a step the runner works in this order: `freed`, `setups`, `grants`, then `chunks` and `decode` in one forward.
In every layer the keys and values of ALL the step's tokens are written before any attention of that layer reads: a
chunk may continue behind a page that another chunk of the same step computes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

NOP: Final = 0
STEP: Final = 1
STOP: Final = 2

HEADER: Final = 8  # op, ints in all, step, then how many setups, grants, chunks, decode rows, freed rows
_SETUP: Final = 5
_GRANT: Final = 3
_CHUNK: Final = 4


@dataclass(frozen=True, slots=True)
class NewSequence:
    """A request enters a row of the persistent batch. Both floats are exact in 32 bits; the seed has 64."""

    row: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Prefill of positions [start, start + len(tokens)). `last`: sample the next token from the final position."""

    row: int
    start: int
    token_ids: tuple[int, ...]
    is_last: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. A grant is (row, index in the row's page table, page id).

    A row in `decode` feeds the token that it sampled last, which stays on the device, at the position that follows
    everything it has fed so far; the runner keeps that position itself. A row is in at most one of chunks and decode.
    """

    step: int
    new_sequences: tuple[NewSequence, ...] = ()
    page_grants: tuple[tuple[int, int, int], ...] = ()
    chunks: tuple[PrefillChunk, ...] = ()
    decode_rows: tuple[int, ...] = ()
    freed_rows: tuple[int, ...] = ()

    @property
    def sampled_rows(self) -> tuple[int, ...]:
        """The rows that get a new token, in the order of the sampled ids: finished prompts, then decode."""
        return (*(chunk.row for chunk in self.chunks if chunk.is_last), *self.decode_rows)


@dataclass(frozen=True, slots=True)
class RankCommand:
    """What travels: an op, and the plan when the op is STEP."""

    op: int
    plan: StepPlan | None = None


def float32(value: float) -> float:
    """`value` as 32 bits hold it, so that rank 0 computes with the same number as those it tells."""
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def encode_command(order: RankCommand) -> torch.Tensor:
    """One int32 tensor, whose second element is its own length."""
    plan = order.plan
    if plan is None:
        return torch.tensor([order.op, HEADER, 0, 0, 0, 0, 0, 0], dtype=torch.int32)
    sizes = (
        len(plan.new_sequences),
        len(plan.page_grants),
        len(plan.chunks),
        len(plan.decode_rows),
        len(plan.freed_rows),
    )
    out = [order.op, 0, _signed(plan.step & 0xFFFFFFFF), *sizes]
    for setup in plan.new_sequences:
        low, high = _signed(setup.seed & 0xFFFFFFFF), _signed(setup.seed >> 32 & 0xFFFFFFFF)
        out += (setup.row, _bits(setup.temperature), _bits(setup.top_p), low, high)
    for grant in plan.page_grants:
        out += grant
    for chunk in plan.chunks:
        out += (chunk.row, chunk.start, int(chunk.is_last), len(chunk.token_ids))
    out += plan.decode_rows
    out += plan.freed_rows
    for chunk in plan.chunks:
        out += chunk.token_ids
    out[1] = len(out)
    return torch.tensor(out, dtype=torch.int32)


def decode_command(tensor: torch.Tensor) -> RankCommand:
    """The inverse of `encode`. A tensor that no `encode` made is a ValueError: ranks that disagree must not go on."""
    data: list[int] = tensor.tolist()
    if len(data) < HEADER or data[1] != len(data) or data[0] not in (NOP, STEP, STOP):
        raise ValueError(f"not a plan: {len(data)} ints that begin with {data[:HEADER]}")
    if data[0] != STEP:
        return RankCommand(data[0])
    setups_n, grants_n, chunks_n, decode_n, freed_n = data[3:HEADER]
    at = HEADER
    setups, at = _table(data, at, setups_n, _SETUP)
    grants, at = _table(data, at, grants_n, _GRANT)
    heads, at = _table(data, at, chunks_n, _CHUNK)
    rows, at = tuple(data[at : at + decode_n]), at + decode_n
    freed, at = tuple(data[at : at + freed_n]), at + freed_n
    chunks = []
    for row, start, last, length in heads:
        chunks.append(PrefillChunk(row, start, tuple(data[at : at + length]), bool(last)))
        at += length
    if at != len(data):
        raise ValueError(f"a plan of {len(data)} ints whose parts take {at}")
    plan = StepPlan(
        step=data[2] & 0xFFFFFFFF,
        new_sequences=tuple(
            NewSequence(row, _float(temperature), _float(top_p), (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32)
            for row, temperature, top_p, low, high in setups
        ),
        page_grants=tuple((row, index, page) for row, index, page in grants),
        chunks=tuple(chunks),
        decode_rows=rows,
        freed_rows=freed,
    )
    return RankCommand(STEP, plan)


def _table(data: Sequence[int], at: int, rows: int, width: int) -> tuple[list[Sequence[int]], int]:
    end = at + rows * width
    return [data[i : i + width] for i in range(at, end, width)], end


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits


def _bits(value: float) -> int:
    result: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return result


def _float(bits: int) -> float:
    result: float = struct.unpack("<f", struct.pack("<i", bits))[0]
    return result
