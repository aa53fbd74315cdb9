"""Greedy replies in fp32 are the same on any number of GPUs, whatever does not divide among them."""

from concurrent.futures import Future

import pytest

from tests.engine.distributed.shapes import SHAPES, Replies, assert_equal
from tests.gpu import machine
from tests.gpu.ranks.groups import SHAPES_BY_PART, SIZES


def test_every_group_gives_the_same_replies(replies: dict[int, list[str]]) -> None:
    """Through HTTP and the scheduler of rank 0."""
    for size in SIZES:
        assert replies[size] == replies[1], size
    machine.report("greedy replies, fp32", world_sizes=SIZES, dialogs=len(replies[1]), equal=True)


@pytest.mark.parametrize("size", SIZES[1:])
def test_shapes_that_do_not_divide(size: int, uneven_worlds: dict[tuple[int, int], Future[Replies]]) -> None:
    """Also with quantized weights, which are what the checkpoint has."""
    for part, names in enumerate(SHAPES_BY_PART):
        assert_equal(uneven_worlds[size, part].result(), uneven_worlds[1, part].result(), names)
    machine.report("greedy replies, fp32, uneven shapes", world_size=size, shapes=list(SHAPES), equal=True)
