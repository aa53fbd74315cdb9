"""W10.o replays what requests got: every draft is right in the end, and without drafts there are none."""

from dataclasses import replace

from engine.bench.oracle import lines
from engine.bench.random_model import RandomCheckpoint, spec
from engine.config import resolve


def test_replayed_drafts_are_right() -> None:
    checkpoint = RandomCheckpoint(spec("tiny", vocab=300))
    config = resolve(checkpoint.spec, device="cpu", max_context=256, max_num_seqs=32, seed=1)
    found = list(lines(replace(config, native=False, num_kv_pages=200), checkpoint, 1, 0.05))
    assert len(found) == 12
    for line in found:
        name = str(line["workload"])
        if name.startswith("W10.o-") or name == "W10.o":
            assert line["accepted"] == line["drafted"]
            assert int(str(line["drafted"])) > 5
            assert line["replies_equal_to_off"] == line["rows"]
        elif name.startswith("W10.off"):
            assert line["drafted"] == 0
