"""Two ranks verify the drafts that rank 0 plans, and go on from the same tokens."""

import json
from pathlib import Path

from tests.engine.distributed.world import World
from tests.engine.tiny import write_checkpoint

PROMPTS = [[1, *range(20 + number, 29 + number)] * 3 for number in range(4)]


def test_two_ranks_reply_with_drafts_what_one_replies_without(tmp_path: Path) -> None:
    model = str(write_checkpoint(tmp_path, heads=4, kv_heads=2, cycle=12))
    said = []
    for size, speculate in ((1, "off"), (2, "ngram")):
        config = {"num_kv_pages": 60, "num_host_slots": 20, "speculate": speculate}
        with World(size, "dialogs", model=model, prompts=PROMPTS, length=40, config=config) as world:
            assert world.codes() == [0] * size, world.said
            said.append(dict(line.split(" ", 1) for line in world.said[0] if " " in line))
    alone, together = said
    assert json.loads(together["replies"]) == json.loads(alone["replies"])
    assert int(together["accepted"]) >= 20
    assert alone["accepted"] == "0"
