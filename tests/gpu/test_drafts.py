"""On a card, requests get the same ids with drafts and without, greedy and sampled, steps ahead of their ids."""

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.config import SPECULATE, resolve
from engine.core.engine_core import EngineCore
from engine.scheduler.drafts.model_drafter import ModelDrafter
from tests.engine.core.test_drafts import MAX_CONTEXT, ask
from tests.engine.tiny import write_checkpoint


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("quantize", ["none", "int4"])
def test_replies_are_the_same_with_drafts(kv_heads: int, quantize: str, tmp_path: Path) -> None:
    written = write_checkpoint(
        tmp_path, dim=128, heads=4, kv_heads=kv_heads, layers=2, multiple_of=64, cycle=12, spread=0.1
    )
    checkpoint = open_checkpoint(written)
    found, accepted = [], []
    for speculate in ("off", "auto", str(written)):
        config = resolve(
            checkpoint.spec, device="cuda", dtype="float32", quantize=quantize, max_context=MAX_CONTEXT, max_num_seqs=4,
            max_prefill_tokens=24, speculate=speculate, seed=1,
        )  # fmt: skip
        engine = EngineCore.start(dataclasses.replace(config, num_kv_pages=20, num_host_slots=0), checkpoint)
        try:
            if speculate not in SPECULATE:
                cheapen(engine)
            found.append([(reply.token_ids, reply.finish_reason) for reply in (*ask(engine), *ask(engine, stop=True))])
            stats = engine.stats()
        finally:
            engine.close()
        assert engine.failure is None
        accepted.append(stats.accepted_tokens)
        torch.cuda.empty_cache()
    assert found[1] == found[0]
    assert found[2] == found[0]
    # Rounded to 4 bits, the model hardly repeats itself any more.
    few = 40 if quantize == "none" else 0
    assert (accepted[0], accepted[1] > few, accepted[2] > few) == (0, True, True)


def cheapen(engine: EngineCore) -> None:
    """Let a draft model draft that takes as long as the model itself."""
    scheduler = engine._scheduler
    assert scheduler is not None
    assert isinstance(scheduler.drafter, ModelDrafter)
    scheduler.drafter._model_cost = 0.05
