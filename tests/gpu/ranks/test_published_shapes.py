"""Published shapes on several GPUs: the logits of 7B's shape, and 70B's answers."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.engine.server.process import EngineProcess, ask
from tests.gpu import machine
from tests.gpu.ranks.groups import DEVICE, FAULT_SIZES, LAYERS

LOGIT_SIZES = [size for size in machine.world_sizes() if size <= 4]  # eight ranks add no new kind of shape
ALL_AT_ONCE_MIB = 120_000  # of a GPU, for all jobs and the 70B together: a 7B takes 27 GB in fp32 and 13 GB in bf16
Logits = list[np.ndarray]
Figures = dict[str, object]


@pytest.fixture(scope="module")
def logits(
    checkpoints: dict[str, machine.WrittenCheckpoint],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[int, str], Future[Logits]]]:
    """The logits of each step, by world size and dtype; fp32 first, if not all jobs fit at once."""
    folder, model = tmp_path_factory.mktemp("logits"), str(checkpoints["7b"].folder)

    def compute(size: int, dtype: str) -> Logits:
        out = folder / f"{size}-{dtype}.npz"
        worker = ("tests.gpu.logits_worker", model, machine.DEVICE, dtype, str(out))
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")
        machine.run_module("torch.distributed.run", "--nproc-per-node", str(size), *rendezvous, "-m", *worker)
        with np.load(out) as steps:
            return [steps[name] for name in steps.files]

    jobs = [(size, dtype) for dtype in ("float32", "bfloat16") for size in LOGIT_SIZES]
    at_once = len(jobs) if machine.smallest_gpu() >= ALL_AT_ONCE_MIB else len(LOGIT_SIZES)
    threads = ThreadPoolExecutor(at_once)
    yield {job: threads.submit(compute, *job) for job in jobs}
    threads.shutdown(wait=False, cancel_futures=True)
    machine.kill_running()  # all of it is this fixture's
    threads.shutdown()
    checkpoints["7b"].delete()


@pytest.fixture(scope="module")
def answers(
    checkpoints: dict[str, machine.WrittenCheckpoint],
    tmp_path_factory: pytest.TempPathFactory,
    background: ThreadPoolExecutor,
) -> Iterator[dict[int, Future[Figures]]]:
    """Figures by world size, of one question to the 70B's shape."""
    folder, model = tmp_path_factory.mktemp("answers"), str(checkpoints["70b"].folder)

    def answer(size: int) -> Figures:
        flags = ("--model", model, "--port", "0", "--kv-memory", "32768", *DEVICE)
        start = time.monotonic()
        with EngineProcess(*flags, ranks=size, log=folder / str(size)) as engine:
            url, ready = engine.ready().url, time.monotonic() - start
            with httpx.Client(base_url=url, timeout=60) as http:
                start = time.monotonic()
                body = ask(http, [{"role": "user", "content": "Hello?"}], max_tokens=40, ignore_eos=True).json()
                seconds = time.monotonic() - start
            hosts = [round(machine.peak_host_bytes(engine.rank(rank)) / 2**30, 2) for rank in range(size)]
        completion_tokens = body["usage"]["completion_tokens"]
        return {
            "ready_s": round(ready, 1), "chat_s": round(seconds, 2), "completion_tokens": completion_tokens,
            "host_gib": hosts,
        }  # fmt: skip

    yield {size: background.submit(answer, size) for size in FAULT_SIZES}
    checkpoints["70b"].delete()


@pytest.mark.parametrize("size", LOGIT_SIZES[1:])
def test_logits_of_7b(
    size: int, logits: dict[tuple[int, str], Future[Logits]], answers: dict[int, Future[Figures]]
) -> None:
    """Prefill and decode through all layers: equal in fp32; in bf16 about equally far from fp32 on any number of GPUs.

    Random weights amplify bf16's rounding: two orders of summation differ as much from each other as from fp32, by a
    few per cent after 32 layers.
    """
    reference, one_gpu = (logits[1, dtype].result() for dtype in ("float32", "bfloat16"))
    assert [len(step) for step in reference] == [1, 1, 1, 1, 4]
    found, found_bf16 = (logits[size, dtype].result() for dtype in ("float32", "bfloat16"))
    float32, one = relative_errors(reference, found), relative_errors(reference, one_gpu)
    several, between = relative_errors(reference, found_bf16), relative_errors(one_gpu, found_bf16)
    machine.report(
        "logits of 7B's shape", world_size=size, fp32=f"{max(float32):.1e}", bf16_one_gpu_from_fp32=rounded(one),
        bf16_from_fp32=rounded(several), bf16_from_one_gpu=rounded(between),
    )  # fmt: skip
    assert max(float32) < 1e-3
    assert sum(several) < 1.3 * sum(one)


@pytest.mark.parametrize("size", FAULT_SIZES)
def test_70b_answers(
    size: int, checkpoints: dict[str, machine.WrittenCheckpoint], answers: dict[int, Future[Figures]]
) -> None:
    """Grouped queries and eight shards, with some of the layers. It is slow, as it shares the GPUs with the logits."""
    figures, gigabytes = answers[size].result(), round(checkpoints["70b"].gigabytes, 1)
    machine.report("70B's shape", world_size=size, layers=LAYERS, gb=gigabytes, **figures)
    assert figures["completion_tokens"] == 40


def relative_errors(expected: Logits, found: Logits) -> list[float]:
    """|expected - found| / |expected| of each step's logits."""
    return [float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in zip(expected, found, strict=True)]


def rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.2g}") for value in values]
