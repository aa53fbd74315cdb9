"""The list of query blocks for the chunk attention: how many tokens of a prompt one program takes, on which host and
kernel must agree, and how many programs share a block's positions.

It knows chunks as numbers, and neither tensors nor kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from engine.kernels.attention.attention_rules import LARGE_HEAD
from engine.runner.cuda.batch.input_batch import BatchShape
from engine.scheduler.step_plan import PrefillChunk

# Measured on an H200 (docs/bench/h200-chunks.jsonl).
MAX_SPLITS: Final = 8  # of a block
MIN_SPLIT: Final = 150  # positions
# Queries of all programs with splits, at most: two programs of 64 for each multiprocessor, or one of 128.
SPLIT_QUERIES: Final = 256 * 64
SMALLEST_BLOCK: Final = 16  # queries

QueryBlock = tuple[int, int, int, int, int, int]  # see `chunk_attention`
NO_BLOCK: Final[QueryBlock] = (-1, 0, 0, 0, 0, 1)


def query_block(shape: BatchShape, *, gpu: bool, head_dim: int) -> int:
    """Prefill tokens that one program of the chunk attention takes.

    A step is recorded with as many programs as its chunks could ever need, and most of them find no work. Larger blocks
    are faster, but so large that only one program fits a multiprocessor at a time. With few tokens, the idle programs
    would then take longer than the work. Large heads fill registers and shared memory with fewer queries.
    """
    if gpu:
        return 64 if shape.num_prefill_tokens <= 128 or head_dim > LARGE_HEAD else 128
    return SMALLEST_BLOCK if shape.num_prefill_tokens <= SMALLEST_BLOCK else 32


def query_blocks(
    chunks: Iterable[PrefillChunk], *, first_token: int, block: int, heads: int, max_blocks: int
) -> list[QueryBlock]:
    """The blocks of a step's chunks, whose tokens begin at `first_token`: exactly `max_blocks` entries.

    The longest contexts come first, since they take longest. A few blocks, as of a question that continues a long
    dialog, would leave most of the device idle: their contexts are split.
    """
    blocks: list[tuple[int, int, int, int]] = []
    for chunk in chunks:
        length = len(chunk.token_ids)
        blocks += [
            (chunk.row, first_token + at, min(block, length - at), chunk.start + at) for at in range(0, length, block)
        ]
        first_token += length
    blocks.sort(key=lambda each: -(each[3] + each[2]))
    unsplit = max(1, len(blocks))
    most = min(MAX_SPLITS, SPLIT_QUERIES // (block * heads * unsplit), max_blocks // unsplit)
    entries: list[QueryBlock] = []
    for row, first, count, start in blocks:
        splits = max(1, min(most, (start + count) // MIN_SPLIT))
        entries += [(row, first, count, start, split, splits) for split in range(splits)]
    return entries + [NO_BLOCK] * (max_blocks - len(entries))
