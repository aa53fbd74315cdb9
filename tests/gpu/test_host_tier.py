"""The host tier on a GPU: pages go to pinned memory and back beside the steps, and replies are those of requests alone.

`make test-gpu`, or `pytest -m gpu tests/gpu/test_host_tier.py`.
"""

import dataclasses
import random
import time
from collections.abc import Iterator

import pytest
import torch

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.runner.cuda.host_tier.host_pages import CudaHostPages
from tests.engine.tiny import VOCAB, write_checkpoint
from tests.gpu import machine

DIALOGS, PROMPT, REPLY = 24, 300, 40
PARAMS = SamplingParams(temperature=0.0, max_tokens=REPLY, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model")
    return open_checkpoint(
        write_checkpoint(folder, dim=256, heads=4, kv_heads=2, layers=3, multiple_of=64, spread=0.06)
    )


def configure(checkpoint: Checkpoint, **changes: object) -> EngineConfig:
    config = resolve(checkpoint.spec, device="cuda", dtype="float32", max_context=512, max_num_seqs=8, seed=1)
    return dataclasses.replace(config, exit_on_failure=False, **changes)


def dialog(number: int, length: int = PROMPT) -> list[int]:
    chosen = random.Random(number)
    return [chosen.randrange(3, VOCAB) for _ in range(length)]


@pytest.fixture(scope="module")
def alone(checkpoint: Checkpoint) -> list[list[int]]:
    """Each dialog's reply from an engine in which nothing is ever pushed out, one after the other."""
    engine = EngineCore.start(configure(checkpoint, num_kv_pages=2000, num_host_slots=0), checkpoint)
    replies = [engine.submit(dialog(number), PARAMS, tenant=str(number)).result(60) for number in range(DIALOGS)]
    engine.close()
    return replies


@pytest.fixture(params=["auto", "int8"])
def small(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Iterator[EngineCore]:
    """Room for a third of the dialogs of 22 pages, and for all of them in the host's memory."""
    config = configure(checkpoint, num_kv_pages=240, num_host_slots=1000, kv_dtype=request.param)
    engine = EngineCore.start(config, checkpoint)
    host_pages(engine)
    yield engine
    engine.close()
    assert engine.failure is None


def host_pages(engine: EngineCore) -> CudaHostPages:
    """Once its memory is pinned."""
    assert engine._step_loop is not None
    runner = engine._step_loop._runner
    assert isinstance(runner, CudaRunner)
    found = runner._host_pages
    assert isinstance(found, CudaHostPages)
    deadline = time.monotonic() + 30
    while found.num_ready < 1000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_dialogs_that_were_pushed_out_are_restored(small: EngineCore, alone: list[list[int]]) -> None:
    """Eight at a time, in another order each time, some cancelled in the middle.

    In 8 bits a reply may differ from that of the request alone: a batch rounds its sums in another order.
    """
    chosen, replies = random.Random(5), []
    for _ in range(6):
        order = chosen.sample(range(DIALOGS), DIALOGS)
        for first in range(0, DIALOGS, 8):
            batch = order[first : first + 8]
            streams = [small.submit(dialog(number), PARAMS, tenant=str(number)) for number in batch]
            for number, stream in zip(batch, streams, strict=True):
                if chosen.random() < 0.2:
                    stream.cancel()
                else:
                    replies.append(stream.result(60) == alone[number])
            time.sleep(0.05)  # idle: what was not saved beside the steps is saved now
    stats = small.stats()
    machine.report(
        "host tier",
        kv_dtype=small._config.kv_dtype,
        replies=len(replies),
        equal=sum(replies),
        restored=stats.kv_tokens_restored,
        saved=stats.kv_tokens_saved,
        evicted=stats.kv_tokens_evicted,
        computed=stats.prompt_tokens_computed,
        prompt=stats.prompt_tokens,
    )
    assert stats.kv_tokens_restored > 2 * DIALOGS * PROMPT
    assert stats.prompt_tokens_computed < stats.prompt_tokens / 2
    if small._config.kv_dtype == "auto":
        assert all(replies)


def test_erased_bytes_are_in_neither_memory(small: EngineCore) -> None:
    for number in range(6):
        small.submit(dialog(number), PARAMS, tenant=str(number % 2)).result(60)
    pages = host_pages(small)
    deadline = time.monotonic() + 30
    while small.stats().kv_tokens_saved < 6 * PROMPT // 16 * 16:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    torch.cuda.synchronize()
    parts = [pages._kv.pages.cpu(), *slot_contents(pages)]
    # The last layer's values depend on all tokens before, so no two dialogs have the same ones.
    before = [set_of_vectors(part) for part in parts]
    kept = small.stats().kv_tokens_cached
    assert small.erase("0").result(10) > 0
    assert small.stats().kv_tokens_cached < kept
    torch.cuda.synchronize()
    after = [set_of_vectors(part) for part in [pages._kv.pages.cpu(), *slot_contents(pages)]]
    gone = [old - new for old, new in zip(before, after, strict=True)]
    assert gone[0]
    assert any(gone[1:])
    for vectors in gone:
        assert not any(vectors & new for new in after)
    assert small.submit(dialog(0), PARAMS, tenant="0").result(60)
    assert small.submit(dialog(1), PARAMS, tenant="1").result(60)


def test_slots_are_pinned(small: EngineCore) -> None:
    memory = host_pages(small)._slots._memory
    assert memory
    assert all(each.bytes.is_pinned() for each in memory)


def slot_contents(pages: CudaHostPages) -> list[torch.Tensor]:
    """The keys and values in each piece of pinned memory."""
    return [segment[0] for segment in pages._slots._segments]


def set_of_vectors(pages: torch.Tensor) -> set[bytes]:
    """The values of the last layer as bytes, without zeros."""
    values = pages[:, -1, 1].reshape(-1, pages.shape[-1]).contiguous()
    values = values[values.float().abs().sum(-1) > 0]
    return {bytes(vector) for vector in values.view(torch.uint8).numpy()}
