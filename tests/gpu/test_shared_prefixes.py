"""One GPU: steps that read shared prefixes once sample the ids of steps that do not, and of plain torch."""

from dataclasses import replace

import pytest
import torch

from engine.model.rope import local_rope_table, rope_table
from engine.runner.torch_runner import TorchRunner
from tests.gpu import machine

PAGES, PROMPTS, CONTEXT, STEPS = 400, (8, 20, 40), 1024, 120


@pytest.mark.skipif(machine.REHEARSAL, reason="tests/engine/runner/cuda does the same on a CPU")
@pytest.mark.parametrize(("family", "kv_heads"), [("llama", 2), ("llama", 1), ("windows", 1), ("gemma", 2)])
def test_ids_are_those_of_separate_reads(family: str, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Triton decides at its first import whether it interprets, so that happens only where there is a GPU.
    from engine.runner.cuda.batch import prefix_limits
    from engine.runner.cuda.cuda_runner import CudaRunner
    from tests.engine.runner.cuda.test_cuda_runner import FAMILIES, HEAD_DIMS, config, model
    from tests.engine.runner.cuda.test_shared_prefixes import ROWS, Room

    monkeypatch.setattr(prefix_limits, "MIN_PREFIX", 64)
    monkeypatch.setattr(prefix_limits, "MIN_MEMBERS", 2)
    device = torch.device(machine.DEVICE)
    settings = config(device=device, max_num_seqs=ROWS, max_context=CONTEXT, max_prefill_tokens=1400)
    transformer = model(kv_heads, FAMILIES[family], HEAD_DIMS.get(family, 16)).to(device)
    transformer.spec = replace(transformer.spec, max_context=CONTEXT)
    transformer.rope = rope_table(transformer.spec, CONTEXT, device)
    transformer.local_rope = local_rope_table(transformer.spec, CONTEXT, device)
    plain = TorchRunner(settings, transformer, PAGES)
    together, apart = CudaRunner(settings, transformer), CudaRunner(settings, transformer)
    apart._prefixes = None
    for runner in (together, apart):
        runner.start(PAGES)
        while runner.prepare():
            pass
    room, num_shared = Room(7, PAGES, PROMPTS), 0
    for _ in range(STEPS):
        plan = room.plan()
        expected = plain.wait(plain.execute_async(plan))
        assert together.wait(together.execute_async(plan)) == expected
        assert apart.wait(apart.execute_async(plan)) == expected
        last = together._last_decode
        num_shared += last is not None and last[0].shares_prefixes
    assert num_shared > 10
    together.close()
    apart.close()
    machine.report("shared prefixes", family=family, kv_heads=kv_heads, steps=STEPS, decode_steps_that_share=num_shared)
