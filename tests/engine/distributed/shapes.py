"""Small random models whose parts do not divide evenly among ranks; every world size must give the same replies.

It writes checkpoints and compares replies. It does not know on which device the ranks are.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tests.engine.distributed.world import World
from tests.engine.tiny import write_checkpoint

# `multiple_of` of feed-forward layers with 256 columns: the widths are 690, half of which is no whole groups of 32, and
# 704, a quarter of which is a whole number of columns, but not of groups.
UNEVEN_FFN, UNGROUPED_FFN = 230, 704


@dataclass(frozen=True, slots=True)
class Shape:
    """8 query heads of 32 columns each; `codes` as in `write_checkpoint`."""

    kv_heads: int
    multiple_of: int = 64
    vocab: int = 512
    codes: int = 0
    quantize: str = "none"


SHAPES: Final = {
    "one key/value head": Shape(kv_heads=1),
    "two key/value heads": Shape(kv_heads=2),
    "eight key/value heads": Shape(kv_heads=8),
    "an uneven feed-forward and an uneven vocabulary": Shape(kv_heads=4, multiple_of=UNEVEN_FFN, vocab=509),
    "int4": Shape(kv_heads=2, multiple_of=UNGROUPED_FFN, codes=7, quantize="int4"),
    "int8": Shape(kv_heads=8, multiple_of=UNEVEN_FFN, codes=127, quantize="int8"),
}
PROMPTS: Final = [[1, 5, 9, 200, 501, 3], list(range(40, 90)), [1, *range(300, 280, -1)]]
MAX_CONTEXT: Final = 128


def write_shapes(folder: Path, names: list[str]) -> list[dict[str, object]]:
    """The checkpoints of these shapes, as `World`'s job "families" takes them."""
    written = []
    for number, name in enumerate(names):
        shape = SHAPES[name]
        path = write_checkpoint(
            folder / f"shape{number}", dim=256, heads=8, kv_heads=shape.kv_heads, multiple_of=shape.multiple_of,
            vocab=shape.vocab, codes=shape.codes, spread=0.08,
        )  # fmt: skip
        job = {"model": str(path), "quantize": shape.quantize, "prompts": PROMPTS, "max_context": MAX_CONTEXT}
        written.append(job)
    return written


@dataclass(frozen=True, slots=True)
class Replies:
    """Of all ranks of one world: the logits of each shape's first prompt, and each shape's greedy replies."""

    logits: list[list[np.ndarray]]  # by rank, by shape
    ids: list[list[list[list[int]]]]  # by rank, by shape, by prompt


def replies_of(
    size: int, models: list[dict[str, object]], length: int, folder: Path, timeout: float = 240.0, **more: object
) -> Replies:
    """The replies of a world of `size` ranks to all models, one after the other; `more` are arguments of the job."""
    out = folder / f"world{size}"
    with World(size, "families", model=models[0]["model"], models=models, length=length, out=str(out), **more) as world:
        assert world.codes(timeout) == [0] * size, world.said
    logits = []
    for rank in range(size):
        with np.load(out.with_suffix(f".{rank}.npz")) as arrays:
            logits.append(list(arrays.values()))
    return Replies(logits, [json.loads(out.with_suffix(f".{rank}.json").read_text()) for rank in range(size)])


def differences(found: Replies, alone: Replies) -> list[tuple[float, int]]:
    """For each shape: the largest difference of any rank's logits from one rank's, and how many replies differ."""
    by_shape = []
    for number, logits in enumerate(alone.logits[0]):
        distance = max(float(np.abs(rank[number] - logits).max()) for rank in found.logits)
        pairs = [pair for rank in found.ids for pair in zip(rank[number], alone.ids[0][number], strict=True)]
        by_shape.append((distance, sum(one != other for one, other in pairs)))
    return by_shape


def assert_equal(found: Replies, alone: Replies, names: list[str], tolerance: float = 1e-3) -> None:
    """Every rank of a world has the ids of one rank, and its logits up to `tolerance`."""
    for name, (distance, unequal) in zip(names, differences(found, alone), strict=True):
        assert distance < tolerance, f"{name}: logits differ by {distance}"
        assert unequal == 0, f"{name}: {unequal} replies differ"
