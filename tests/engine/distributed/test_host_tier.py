"""Several ranks save and restore their own shares of the same pages."""

import json
from pathlib import Path

import pytest

from tests.engine.distributed.world import World
from tests.engine.tiny import write_checkpoint

PROMPTS = [[3 + (7 * number + 5 * at * at) % 500 for at in range(150)] for number in range(4)]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.long)])
def test_ranks_restore_what_one_rank_computes(ranks: int, tmp_path: Path) -> None:
    """Four dialogs of eleven pages in 24 pages: each was evicted to the host tier before it is asked for again.

    Two of four ranks hold the same key/value head.
    """
    model = str(write_checkpoint(tmp_path, heads=4, kv_heads=2))
    said = []
    for size, config in ((1, {"num_kv_pages": 200}), (ranks, {"num_kv_pages": 24, "num_host_slots": 60})):
        with World(size, "dialogs", model=model, prompts=PROMPTS, length=12, config=config) as world:
            assert world.codes() == [0] * size, world.said
            said.append(dict(line.split(" ", 1) for line in world.said[0] if " " in line))
    alone, together = said
    assert json.loads(together["replies"]) == json.loads(alone["replies"])
    assert alone["restored"] == "0"
    assert int(together["restored"]) >= 4 * 100
    assert int(together["erased"]) >= 40
    assert together["left"] == alone["left"] == "0 0"
