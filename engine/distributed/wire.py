"""The wire format of the commands that rank 0 broadcasts: one int32 tensor for each command.

    header       op, total length, step, then the number of entries in each of the eleven sections below
    sequences    row, temperature, top_p, low and high half of the seed (floats and halves as 32-bit patterns),
                 is_adjusted
    page grants  row, index in the row's page table, page id
    chunks       row, start, is_last, number of tokens
    verifications   row, number of drafts
    decode rows
    freed rows
    copies       duplicates (page, page); overwritten pages; overwritten slots; restores (slot, page);
                 saves (page, slot)
    token ids    of all chunks, then the drafts of all verifications, one after the other

A command for the files of the KV cache has a section of its own kind instead:

    header       op, total length, kind, number of transfers, number of dropped records
    transfers    record, low and high half of the stamp, page id, slot
    dropped records

What only rank 0 uses (adjustments, masks, numbers of log-probabilities) does not travel: it samples for all ranks.

It knows the layout of a command. It does not know how the tensor travels or what the ranks do with it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from engine.kv_store.commands import PageTransfer, StoreCommand
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan, Verification

NOP: Final = 0  # heartbeat: every rank answers with its allocated memory, then with its ready slots of the host tier
STEP: Final = 1  # execute the plan
STOP: Final = 2  # leave
FILES: Final = 3  # do something with the files of the KV cache

HEADER_LENGTH: Final = 14
_SEQUENCE_WIDTH: Final = 6
_GRANT_WIDTH: Final = 3
_CHUNK_WIDTH: Final = 4
_VERIFICATION_WIDTH: Final = 2
_COPY_WIDTH: Final = 2
_TRANSFER_WIDTH: Final = 5


@dataclass(frozen=True, slots=True)
class RankCommand:
    """One command of rank 0. `plan` is set if and only if `op` is STEP, `files` if and only if it is FILES."""

    op: int
    plan: StepPlan | None = None
    files: StoreCommand | None = None


def encode_command(command: RankCommand) -> torch.Tensor:
    """One int32 tensor, whose second element is its own length."""
    if command.files is not None:
        return _encode_files(command.files)
    plan = command.plan
    if plan is None:
        return torch.tensor([command.op, HEADER_LENGTH, *[0] * (HEADER_LENGTH - 2)], dtype=torch.int32)
    copies = plan.copies
    counts = (
        len(plan.new_sequences),
        len(plan.page_grants),
        len(plan.chunks),
        len(plan.verifications),
        len(plan.decode_rows),
        len(plan.freed_rows),
        len(copies.duplicates),
        len(copies.overwritten_pages),
        len(copies.overwritten_slots),
        len(copies.restores),
        len(copies.saves),
    )
    out = [command.op, 0, _to_signed(plan.step & 0xFFFFFFFF), *counts]
    for sequence in plan.new_sequences:
        low, high = _to_signed(sequence.seed & 0xFFFFFFFF), _to_signed(sequence.seed >> 32 & 0xFFFFFFFF)
        out += (sequence.row, _float_to_bits(sequence.temperature), _float_to_bits(sequence.top_p), low, high)
        out.append(int(sequence.is_adjusted))
    for grant in plan.page_grants:
        out += grant
    for chunk in plan.chunks:
        out += (chunk.row, chunk.start, int(chunk.is_last), len(chunk.token_ids))
    for verification in plan.verifications:
        out += (verification.row, len(verification.drafts))
    out += plan.decode_rows
    out += plan.freed_rows
    for duplicate in copies.duplicates:
        out += duplicate
    out += copies.overwritten_pages
    out += copies.overwritten_slots
    for copy in (*copies.restores, *copies.saves):
        out += copy
    for chunk in plan.chunks:
        out += chunk.token_ids
    for verification in plan.verifications:
        out += verification.drafts
    out[1] = len(out)
    return torch.tensor(out, dtype=torch.int32)


def decode_command(tensor: torch.Tensor) -> RankCommand:
    """The inverse of `encode_command`.

    Raises ValueError for any other tensor: ranks that disagree about a command must not continue.
    """
    data: list[int] = tensor.tolist()
    if len(data) < HEADER_LENGTH or data[1] != len(data) or data[0] not in (NOP, STEP, STOP, FILES):
        raise ValueError(f"not an encoded command: {len(data)} ints that start with {data[:HEADER_LENGTH]}")
    if data[0] == FILES:
        return RankCommand(FILES, files=_decode_files(data))
    if data[0] != STEP:
        return RankCommand(data[0])
    num_sequences, num_grants, num_chunks, num_verifications, num_decode, num_freed, *num_copies = data[3:HEADER_LENGTH]
    sequences, at = _read_section(data, HEADER_LENGTH, num_sequences, _SEQUENCE_WIDTH)
    grants, at = _read_section(data, at, num_grants, _GRANT_WIDTH)
    chunk_heads, at = _read_section(data, at, num_chunks, _CHUNK_WIDTH)
    verification_heads, at = _read_section(data, at, num_verifications, _VERIFICATION_WIDTH)
    decode_rows, at = tuple(data[at : at + num_decode]), at + num_decode
    freed_rows, at = tuple(data[at : at + num_freed]), at + num_freed
    duplicates, at = _read_section(data, at, num_copies[0], _COPY_WIDTH)
    overwritten_pages, at = tuple(data[at : at + num_copies[1]]), at + num_copies[1]
    overwritten_slots, at = tuple(data[at : at + num_copies[2]]), at + num_copies[2]
    restores, at = _read_section(data, at, num_copies[3], _COPY_WIDTH)
    saves, at = _read_section(data, at, num_copies[4], _COPY_WIDTH)
    chunks = []
    for row, start, is_last, length in chunk_heads:
        chunks.append(PrefillChunk(row, start, tuple(data[at : at + length]), bool(is_last)))
        at += length
    verifications = []
    for row, length in verification_heads:
        verifications.append(Verification(row, tuple(data[at : at + length])))
        at += length
    if at != len(data):
        raise ValueError(f"an encoded command of {len(data)} ints whose sections add up to {at}")
    plan = StepPlan(
        step=data[2] & 0xFFFFFFFF,
        new_sequences=tuple(
            NewSequence(
                row,
                _bits_to_float(temperature),
                _bits_to_float(top_p),
                (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32,
                bool(is_adjusted),
            )
            for row, temperature, top_p, low, high, is_adjusted in sequences
        ),
        page_grants=tuple((row, index, page_id) for row, index, page_id in grants),
        chunks=tuple(chunks),
        decode_rows=decode_rows,
        freed_rows=freed_rows,
        copies=PageCopies(
            tuple((source, target) for source, target in duplicates),
            overwritten_pages,
            overwritten_slots,
            tuple((slot, page_id) for slot, page_id in restores),
            tuple((page_id, slot) for page_id, slot in saves),
        ),
        verifications=tuple(verifications),
    )
    return RankCommand(STEP, plan)


def _encode_files(command: StoreCommand) -> torch.Tensor:
    out = [FILES, 0, command.kind, len(command.transfers), len(command.dropped)]
    out += [0] * (HEADER_LENGTH - len(out))
    for transfer in command.transfers:
        low, high = _to_signed(transfer.stamp & 0xFFFFFFFF), _to_signed(transfer.stamp >> 32)
        out += (transfer.record, low, high, transfer.page_id, transfer.slot)
    out += command.dropped
    out[1] = len(out)
    return torch.tensor(out, dtype=torch.int32)


def _decode_files(data: Sequence[int]) -> StoreCommand:
    kind, num_transfers, num_dropped = data[2:5]
    transfers, at = _read_section(data, HEADER_LENGTH, num_transfers, _TRANSFER_WIDTH)
    if at + num_dropped != len(data):
        raise ValueError(f"an encoded command of {len(data)} ints whose sections add up to {at + num_dropped}")
    return StoreCommand(
        kind,
        tuple(
            PageTransfer(record, (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32, page_id, slot)
            for record, low, high, page_id, slot in transfers
        ),
        tuple(data[at:]),
    )


def _read_section(data: Sequence[int], start: int, count: int, width: int) -> tuple[list[Sequence[int]], int]:
    """`count` entries of `width` ints, and where the next section starts."""
    end = start + count * width
    return [data[at : at + width] for at in range(start, end, width)], end


def _to_signed(bits: int) -> int:
    """An unsigned 32-bit pattern as the int32 with the same bits."""
    return bits - (1 << 32) if bits >= 1 << 31 else bits


def _float_to_bits(value: float) -> int:
    bits: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return bits


def _bits_to_float(bits: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<i", bits))[0]
    return value
