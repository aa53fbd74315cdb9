"""What a GPU's runner sends before a step: the control block's layout, how a plan is written into it, and the shapes
of steps that are recorded. Integers only; it knows no kernels and no graphs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from torch import Tensor

from engine.config import EngineConfig
from engine.runner.cuda.attention import query_block
from engine.runner.cuda.input_batch import BatchShape, StepInputs
from engine.scheduler.step_plan import NewSequence, StepPlan

MAX_PAGE_GRANTS = 512  # granted pages that travel with a step; more of them go ahead of it
TOKEN_COUNTS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024)  # tokens of the steps with prompts; then doubled
_SETUP, _GRANT, _BLOCK, _HEAD = 5, 3, 4, 8


class InputBuffers:
    """The layout of the control block: int32, the part every step needs first, the prompt tokens last."""

    def __init__(self, max_num_seqs: int, shapes: Sequence[BatchShape], *, gpu: bool) -> None:
        self.max_num_seqs, self._gpu = max_num_seqs, gpu
        most, blocks = max(size.num_prefill_tokens for size in shapes), max(self.max_blocks(size) for size in shapes)
        lengths = {
            "head": _HEAD, "slots": max_num_seqs, "sample_rows": max_num_seqs, "sources": max_num_seqs,
            "sample_positions": max_num_seqs, "setups": max_num_seqs * _SETUP,
            "grants": MAX_PAGE_GRANTS * _GRANT, "blocks": blocks * _BLOCK, "tokens": most, "token_rows": most,
            "token_positions": most,
        }  # fmt: skip
        self.offsets: dict[str, int] = {}
        end = 0
        for name, length in lengths.items():
            self.offsets[name] = end
            end += -(-length // 16) * 16  # each part begins at 64 bytes
        self.size, self.steady = end, self.offsets["blocks"]

    def view(self, buffer: Tensor, name: str, length: int) -> Tensor:
        return buffer[self.offsets[name] : self.offsets[name] + length]

    def inputs(self, buffer: Tensor, size: BatchShape) -> StepInputs:
        samples = self.max_samples(size)
        chunks = self.view(buffer, "blocks", self.max_blocks(size) * _BLOCK).view(-1, _BLOCK)
        return StepInputs(
            self.view(buffer, "slots", size.num_slots), self.view(buffer, "sample_rows", samples),
            self.view(buffer, "sources", samples), self.view(buffer, "sample_positions", samples),
            self.view(buffer, "tokens", size.num_prefill_tokens),
            self.view(buffer, "token_rows", size.num_prefill_tokens),
            self.view(buffer, "token_positions", size.num_prefill_tokens), chunks,
        )  # fmt: skip

    def query_block(self, size: BatchShape) -> int:
        return query_block(size, gpu=self._gpu)

    def max_blocks(self, size: BatchShape) -> int:
        """Blocks of queries, at most: each row's chunk may end within one."""
        return min(size.num_prefill_tokens, -(-size.num_prefill_tokens // self.query_block(size)) + self.max_num_seqs)

    def max_samples(self, size: BatchShape) -> int:
        """Rows that a step of this size samples for, at most."""
        return self.max_num_seqs if size.num_prefill_tokens else size.num_slots

    def fill(self, host: Tensor, plan: StepPlan, size: BatchShape) -> Tensor:
        """The plan, as a step of this size needs it, into a host buffer; returns that."""
        samples = self.max_samples(size)
        values = host.numpy()

        def put(name: str, items: Sequence[int]) -> None:
            if items:
                start = self.offsets[name]
                values[start : start + len(items)] = items

        put("head", (len(plan.new_sequences), len(plan.page_grants)))
        put("slots", [*plan.decode_rows, *[-1] * (size.num_slots - len(plan.decode_rows))])
        put("setups", [item for setup in plan.new_sequences for item in _setup_ints(setup)])
        put("grants", [item for grant in plan.page_grants for item in grant])
        sources: list[int] = []
        positions: list[int] = []
        if size.num_prefill_tokens:
            tokens: list[int] = []
            rows: list[int] = []
            places: list[int] = []
            blocks: list[tuple[int, int, int, int]] = []
            block = self.query_block(size)
            for chunk in plan.chunks:
                length, first = len(chunk.token_ids), len(tokens)
                tokens += chunk.token_ids
                rows += [chunk.row] * length
                places += range(chunk.start, chunk.start + length)
                for at in range(0, length, block):
                    count = min(block, length - at)
                    blocks.append((chunk.row, size.num_slots + first + at, count, chunk.start + at))
                if chunk.is_last:
                    sources.append(size.num_slots + len(tokens) - 1)
                    positions.append(chunk.start + length)
            put("tokens", [*tokens, *[0] * (size.num_prefill_tokens - len(tokens))])
            put("token_rows", [*rows, *[-1] * (size.num_prefill_tokens - len(rows))])
            put("token_positions", places)
            blocks.sort(key=lambda block: -(block[3] + block[2]))  # what takes longest begins first
            blocks += [(-1, 0, 0, 0)] * (self.max_blocks(size) - len(blocks))
            put("blocks", [item for block in blocks for item in block])
        sources += range(len(plan.decode_rows))
        positions += [-1] * len(plan.decode_rows)
        none = samples - len(sources)
        put("sample_rows", [*plan.sampled_rows, *[-1] * none])
        put("sources", [*sources, *[0] * none])
        put("sample_positions", [*positions, *[-1] * none])
        return host


def batch_shapes(config: EngineConfig) -> list[BatchShape]:
    """The steps to record: decoding alone for 1, 2, 4 … rows; prompt tokens alone, or beside all rows.

    The sizes with prompts make round totals: that is what the products' cost goes by. Between 128 and 1024 that cost
    grows in stairs, and each size ends on one.
    """
    rows = config.max_num_seqs
    slots = [1]
    while slots[-1] < rows:
        slots.append(min(slots[-1] * 2, rows))
    largest = max(config.max_prefill_tokens, config.burst_prefill_tokens)
    mixed = []
    for total in _totals(largest + rows):
        mixed.append(BatchShape(0, total))
        if total - rows >= min(16, largest):
            mixed.append(BatchShape(rows, total - rows))
    return [BatchShape(count, 0) for count in slots] + mixed


def _totals(most: int) -> Iterator[int]:
    total = 0
    for total in TOKEN_COUNTS:
        yield total
        if total >= most:
            return
    while total < most:
        total *= 2
        yield total


def _setup_ints(setup: NewSequence) -> tuple[int, ...]:
    packed = struct.pack("<ffQ", setup.temperature, setup.top_p, setup.seed & (1 << 64) - 1)
    return (setup.row, *struct.unpack("<iiii", packed))
