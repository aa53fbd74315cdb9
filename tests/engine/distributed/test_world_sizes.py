"""Greedy replies are the same on any number of ranks, even if heads, widths or the vocabulary do not divide evenly."""

from pathlib import Path

import pytest

from engine.runner.cpu.build import compiled_library
from tests.engine.distributed.shapes import SHAPES, assert_equal, replies_of, write_shapes

FEW = ["two key/value heads", "an uneven feed-forward and an uneven vocabulary", "int4"]


@pytest.mark.parametrize(
    ("names", "sizes", "length"),
    [(FEW, (4,), 8), pytest.param(list(SHAPES), (2, 4, 8), 32, marks=pytest.mark.long)],
    ids=["few", "all"],
)
def test_replies_equal_those_of_one_rank(names: list[str], sizes: tuple[int, ...], length: int, tmp_path: Path) -> None:
    """Quantized shapes need the compiled code: without it, torch's kernels round each rank's share by itself."""
    if compiled_library() is None:
        names = [name for name in names if SHAPES[name].quantize == "none"]
    models = write_shapes(tmp_path, names)
    alone = replies_of(1, models, length, tmp_path)
    assert len({str(ids) for ids in alone.ids[0]}) == len(names)
    for size in sizes:
        assert_equal(replies_of(size, models, length, tmp_path), alone, names)
