"""Each token of a prompt is in one block, and few blocks with long contexts are split, within the kernel's limits."""

import pytest

from engine.runner.cuda.batch.query_blocks import MAX_SPLITS, MIN_SPLIT, NO_BLOCK, SPLIT_QUERIES, query_blocks
from engine.scheduler.step_plan import PrefillChunk


def chunk(row: int, start: int, length: int) -> PrefillChunk:
    return PrefillChunk(row, start, (1,) * length, True)


def test_blocks_cover_the_chunks() -> None:
    found = query_blocks([chunk(5, 100, 70), chunk(2, 0, 10)], first_token=4, block=32, heads=100, max_blocks=6)
    assert found == [
        (5, 68, 6, 164, 0, 1), (5, 36, 32, 132, 0, 1), (5, 4, 32, 100, 0, 1), (2, 74, 10, 0, 0, 1), NO_BLOCK, NO_BLOCK,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "chunks", "room", "expected"),
    [
        (32, [chunk(0, 1960, 40)], 64, [8]),
        (8, [chunk(0, 1960, 40)], 64, [8]),
        (64, [chunk(0, 1960, 40)], 64, [4]),
        (32, [chunk(0, 1960, 40)], 3, [3]),
        (32, [chunk(0, 1960, 40)], 1, [1]),
        (32, [chunk(0, 600, 40)], 64, [4]),
        (32, [chunk(0, 100, 20)], 64, [1]),
        (32, [chunk(0, 1960, 40), chunk(1, 3000, 64), chunk(2, 0, 8)], 64, [2, 2, 1]),
        (32, [chunk(row, 1960, 8) for row in range(9)], 64, [1] * 9),
        (300, [chunk(0, 1960, 40)], 64, [1]),
    ],
)
def test_contexts_are_split(heads: int, chunks: list[PrefillChunk], room: int, expected: list[int]) -> None:
    found = query_blocks(chunks, first_token=0, block=64, heads=heads, max_blocks=room)
    assert len(found) == room
    used = [entry for entry in found if entry[0] >= 0]
    assert found[: len(used)] == used
    assert [entry[5] for entry in used if entry[4] == 0] == expected
    split = [entry for entry in used if entry[5] > 1]
    assert used[: len(split)] == split  # so their partial results are the first ones
    assert len(split) * heads * 64 <= SPLIT_QUERIES
    for row, first, count, start, number, splits in split:
        assert splits <= MAX_SPLITS
        assert (start + count) // splits >= MIN_SPLIT
        at = used.index((row, first, count, start, 0, splits))
        assert used[at + number] == (row, first, count, start, number, splits)  # side by side


def test_larger_blocks_fill_the_device_with_fewer_programs() -> None:
    new_prompt = query_blocks([chunk(0, 0, 512)], first_token=0, block=128, heads=32, max_blocks=196)
    assert [entry[5] for entry in new_prompt if entry[0] >= 0] == [1] * 4
    share = query_blocks([chunk(0, 2000, 512)], first_token=0, block=128, heads=8, max_blocks=196)
    assert [entry[5] for entry in share if entry[0] >= 0] == [4] * 16
