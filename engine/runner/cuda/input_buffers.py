"""What a GPU's runner sends before a step: the control block's layout, how a plan is written into it, and the shapes
of steps that are recorded. Integers only; it knows no kernels and no graphs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from torch import Tensor

from engine.config import EngineConfig
from engine.runner.cuda.attention import query_block
from engine.runner.cuda.input_batch import Inputs, Size
from engine.scheduler.step_plan import Plan, RowSetup

GRANTS = 512  # granted pages that travel with a step; more of them go ahead of it
TOTALS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024)  # tokens of the steps with prompts; then doubled
_SETUP, _GRANT, _BLOCK, _HEAD = 5, 3, 4, 8


class Control:
    """The layout of the control block: int32, the part every step needs first, the prompt tokens last."""

    def __init__(self, rows: int, sizes: Sequence[Size], *, gpu: bool) -> None:
        self.rows, self._gpu = rows, gpu
        most, blocks = max(size.tokens for size in sizes), max(self.block_count(size) for size in sizes)
        lengths = {
            "head": _HEAD, "slots": rows, "sample_rows": rows, "sources": rows, "sample_positions": rows,
            "setups": rows * _SETUP, "grants": GRANTS * _GRANT, "blocks": blocks * _BLOCK,
            "tokens": most, "token_rows": most, "token_positions": most,
        }  # fmt: skip
        self.at: dict[str, int] = {}
        end = 0
        for name, length in lengths.items():
            self.at[name] = end
            end += -(-length // 16) * 16  # each part begins at 64 bytes
        self.size, self.steady = end, self.at["blocks"]

    def view(self, buffer: Tensor, name: str, length: int) -> Tensor:
        return buffer[self.at[name] : self.at[name] + length]

    def inputs(self, buffer: Tensor, size: Size) -> Inputs:
        samples = self.samples(size)
        chunks = self.view(buffer, "blocks", self.block_count(size) * _BLOCK).view(-1, _BLOCK)
        return Inputs(
            self.view(buffer, "slots", size.slots), self.view(buffer, "sample_rows", samples),
            self.view(buffer, "sources", samples), self.view(buffer, "sample_positions", samples),
            self.view(buffer, "tokens", size.tokens), self.view(buffer, "token_rows", size.tokens),
            self.view(buffer, "token_positions", size.tokens), chunks,
        )  # fmt: skip

    def block(self, size: Size) -> int:
        return query_block(size, gpu=self._gpu)

    def block_count(self, size: Size) -> int:
        """Blocks of queries, at most: each row's chunk may end within one."""
        return min(size.tokens, -(-size.tokens // self.block(size)) + self.rows)

    def samples(self, size: Size) -> int:
        """Rows that a step of this size samples for, at most."""
        return self.rows if size.tokens else size.slots

    def fill(self, host: Tensor, plan: Plan, size: Size) -> Tensor:
        """The plan, as a step of this size needs it, into a host buffer; returns that."""
        samples = self.samples(size)
        values = host.numpy()

        def put(name: str, items: Sequence[int]) -> None:
            if items:
                start = self.at[name]
                values[start : start + len(items)] = items

        put("head", (len(plan.setups), len(plan.grants)))
        put("slots", [*plan.decode, *[-1] * (size.slots - len(plan.decode))])
        put("setups", [item for setup in plan.setups for item in _setup_ints(setup)])
        put("grants", [item for grant in plan.grants for item in grant])
        sources: list[int] = []
        positions: list[int] = []
        if size.tokens:
            tokens: list[int] = []
            rows: list[int] = []
            places: list[int] = []
            blocks: list[tuple[int, int, int, int]] = []
            block = self.block(size)
            for chunk in plan.chunks:
                length, first = len(chunk.tokens), len(tokens)
                tokens += chunk.tokens
                rows += [chunk.row] * length
                places += range(chunk.start, chunk.start + length)
                for at in range(0, length, block):
                    count = min(block, length - at)
                    blocks.append((chunk.row, size.slots + first + at, count, chunk.start + at))
                if chunk.last:
                    sources.append(size.slots + len(tokens) - 1)
                    positions.append(chunk.start + length)
            put("tokens", [*tokens, *[0] * (size.tokens - len(tokens))])
            put("token_rows", [*rows, *[-1] * (size.tokens - len(rows))])
            put("token_positions", places)
            blocks.sort(key=lambda block: -(block[3] + block[2]))  # what takes longest begins first
            blocks += [(-1, 0, 0, 0)] * (self.block_count(size) - len(blocks))
            put("blocks", [item for block in blocks for item in block])
        sources += range(len(plan.decode))
        positions += [-1] * len(plan.decode)
        none = samples - len(sources)
        put("sample_rows", [*plan.sampled, *[-1] * none])
        put("sources", [*sources, *[0] * none])
        put("sample_positions", [*positions, *[-1] * none])
        return host


def sizes(config: EngineConfig) -> list[Size]:
    """The steps to record: decoding alone for 1, 2, 4 … rows; prompt tokens alone, or beside all rows.

    The sizes with prompts make round totals: that is what the products' cost goes by. Between 128 and 1024 that cost
    grows in stairs, and each size ends on one.
    """
    rows = config.max_batch
    slots = [1]
    while slots[-1] < rows:
        slots.append(min(slots[-1] * 2, rows))
    largest = max(config.chunk, config.burst)
    mixed = []
    for total in _totals(largest + rows):
        mixed.append(Size(0, total))
        if total - rows >= min(16, largest):
            mixed.append(Size(rows, total - rows))
    return [Size(count, 0) for count in slots] + mixed


def _totals(most: int) -> Iterator[int]:
    total = 0
    for total in TOTALS:
        yield total
        if total >= most:
            return
    while total < most:
        total *= 2
        yield total


def _setup_ints(setup: RowSetup) -> tuple[int, ...]:
    packed = struct.pack("<ffQ", setup.temperature, setup.top_p, setup.seed & (1 << 64) - 1)
    return (setup.row, *struct.unpack("<iiii", packed))
