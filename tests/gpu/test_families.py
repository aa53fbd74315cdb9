"""One GPU: every family replies as transformers does, in fp32, through the GPU's kernels."""

from pathlib import Path

import pytest

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.worker import start_worker
from engine.distributed.communicator import SingleRank
from engine.offline import OfflineEngine
from engine.scheduler.request import SamplingParams
from tests.engine.families.cases import CASES
from tests.engine.families.models import REPLY, make_golden
from tests.gpu import machine

GREEDY = SamplingParams(temperature=0.0, max_tokens=REPLY)


@pytest.mark.parametrize("name", list(CASES))
def test_replies_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    expected = make_golden(name, tmp_path)
    checkpoint = open_checkpoint(expected.huggingface)
    config = resolve(
        checkpoint.spec, device=machine.DEVICE, dtype="float32", max_context=expected.case.max_context, quantize="none",
        num_kv_pages=64,  # the next test wants its share of the memory
    )  # fmt: skip
    worker = start_worker(config, checkpoint, SingleRank())
    if machine.DEVICE == "cuda":
        from engine.runner.cuda.cuda_runner import CudaRunner  # a rehearsal may lack Triton

        assert isinstance(worker.runner, CudaRunner)
    engine = OfflineEngine(config, SingleRank(), worker)
    try:
        assert engine.generate(expected.prompts, GREEDY, [0, 0]) == expected.replies
    finally:
        engine.close()
