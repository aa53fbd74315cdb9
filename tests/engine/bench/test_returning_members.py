"""W7, with sizes for a CPU: the prompts of members who come back are restored from the host tier, or computed again."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from engine.bench import __main__ as bench
from engine.bench import trace
from engine.bench.local import TimedEngine
from engine.checkpoint import open_checkpoint
from engine.config import resolve
from tests.engine.tiny import VOCAB, write_checkpoint


def test_what_is_sent() -> None:
    members = trace.returning("W7")
    assert trace.members_digest(members) == "954f98cf1dede9b2"
    assert len(members.order) == len(set(members.order)) == 800
    assert (len(members.told(7)), len(members.prompt(7))) == (512 + 1400, 512 + 1440)
    assert members.told(3)[:512] == members.told(23)[:512] != members.told(4)[:512]
    assert len(trace.returning("W7x", 0.5).order) == 6


@pytest.mark.parametrize("num_slots", [0, 200])
def test_a_run(tmp_path: Path, num_slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trace, "returning", lambda *_: trace.ReturningMembers(2, 4, 10, 40, 6, 8, in_flight=2, vocab=VOCAB)
    )
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, dim=32, heads=4, kv_heads=2, layers=1))
    config = resolve(checkpoint.spec, device="cpu", max_context=256, max_num_seqs=2, seed=1)
    engine = TimedEngine.start(replace(config, num_kv_pages=48, num_host_slots=num_slots), checkpoint)
    assert isinstance(engine, TimedEngine)
    line = asyncio.run(bench.run(engine, "W7", VOCAB, 1.0, "0"))
    engine.close()
    computed, restored = line["prompt_tokens_computed"], line["prompt_tokens_restored"]
    assert isinstance(computed, int)
    assert isinstance(restored, int)
    assert line["prompt_tokens"] == 8 * (40 + 140 + 6)
    assert line["output_tokens"] == 8 * 8
    if num_slots:
        assert restored > 500
        assert computed < 400
    else:
        assert restored == 0
        assert computed > 600
