"""Greedy replies in fp32 are the same on any number of GPUs, even if the shapes do not divide evenly."""

from concurrent.futures import Future

import pytest

from tests.engine.distributed.shapes import Replies, assert_equal, differences
from tests.gpu import machine
from tests.gpu.ranks.groups import SHAPES_BY_PART, SIZES


def test_every_group_gives_the_same_replies(replies: dict[int, list[str]]) -> None:
    """Replies of servers, through HTTP and rank 0's scheduler."""
    equal = {size: sum(a == b for a, b in zip(replies[size], replies[1], strict=True)) for size in SIZES}
    machine.report("greedy replies, fp32", dialogs=len(replies[1]), equal_by_world_size=equal)
    assert set(equal.values()) == {len(replies[1])}


@pytest.mark.parametrize("size", SIZES[1:])
def test_shapes_that_do_not_divide(size: int, uneven_worlds: dict[tuple[int, int], Future[Replies]]) -> None:
    """Also with quantized weights, which represent the checkpoint's weights exactly."""
    for part, names in enumerate(SHAPES_BY_PART):
        found, alone = uneven_worlds[size, part].result(), uneven_worlds[1, part].result()
        for name, (distance, unequal) in zip(names, differences(found, alone), strict=True):
            machine.report(
                "greedy replies, fp32", world_size=size, shape=name, logits_differ_by=f"{distance:.1e}", unequal=unequal
            )
        assert_equal(found, alone, names)
