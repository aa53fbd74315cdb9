"""Ranks on GPUs of their own: equal replies on any number of GPUs, killed ranks, a long idle time, SIGTERM."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.engine.distributed.world import World
from tests.engine.server.process import EngineProcess, alive, ask, children
from tests.gpu import machine
from tests.gpu.load import Load
from tests.gpu.replies import greedy_replies

WORLDS = [size for size in (1, 2, 4, 8) if size <= machine.num_gpus()]
ROUNDS, CLIENTS = 5, 8
LAYERS = 8  # of 70B's 80
DEVICE = ("--device", machine.DEVICE)
IDLE = {
    "silence": 12.5,
    "config": {"heartbeat": 1.0, "group_timeout": 4.0, "step_timeout": 6.0, "max_num_seqs": 4, "num_kv_pages": 256},
}
LIMITS = ("--max-seq-len", "2048", "--max-batch", "8", "--kv-memory", "32768")


@pytest.fixture(scope="module")
def checkpoints(disk: Path) -> Iterator[dict[str, machine.WrittenCheckpoint]]:
    """The large ones are written while tests use the small one."""
    written = {"small": machine.write_checkpoint(disk / "small", "small")}
    assert written["small"].folder
    written |= {
        "7b": machine.write_checkpoint(disk / "7b", "7b"),
        "70b": machine.write_checkpoint(disk / "70b", "70b", layers=LAYERS),
    }
    yield written
    for each in written.values():
        each.delete()


@pytest.fixture(scope="module")
def memory_before() -> list[int]:
    return machine.gpu_memory()


@pytest.fixture(scope="module")
def pair(
    memory_before: list[int],
    checkpoints: dict[str, machine.WrittenCheckpoint],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EngineProcess]:
    """Two ranks in fp32, restarted by torchrun when one of them dies."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    flags = ("--model", str(checkpoints["small"].folder), "--port", port, "--dtype", "float32", *DEVICE, *LIMITS)
    log = tmp_path_factory.mktemp("pair") / "log"
    with EngineProcess(*flags, ranks=2, restarts=ROUNDS, log=log) as engine:
        yield engine


@pytest.fixture(scope="module")
def expected(pair: EngineProcess) -> list[str]:
    return greedy_replies(pair.ready().url)


@pytest.fixture(scope="module")
def idle_world(checkpoints: dict[str, machine.WrittenCheckpoint]) -> Iterator[World]:
    """A group without requests for three group timeouts, while other tests run."""
    with World(2, "serve", model=str(checkpoints["small"].folder), device=machine.DEVICE, **IDLE) as world:
        yield world


def test_equal_replies_on_any_number_of_gpus(
    pair: EngineProcess, checkpoints: dict[str, machine.WrittenCheckpoint], tmp_path: Path
) -> None:
    """All engines run at the same time, as their KV caches are small."""
    flags = ("--model", str(checkpoints["small"].folder), "--port", "0", "--dtype", "float32", *DEVICE, *LIMITS)
    with ExitStack() as stack:
        others = [
            stack.enter_context(EngineProcess(*flags, ranks=0 if size == 1 else size, log=tmp_path / str(size)))
            for size in WORLDS
            if size != 2
        ]
        replies = greedy_replies(pair.ready().url)
        for other in others:
            assert greedy_replies(other.ready().url) == replies
    machine.report("greedy replies, fp32", world_sizes=WORLDS, dialogs=len(replies), equal=True)


def test_killed_ranks_under_load(idle_world: World, pair: EngineProcess, expected: list[str]) -> None:
    failed, restarted = [], []
    for number in range(ROUNDS):
        pair.ready(number + 1)
        with Load(pair.url, CLIENTS) as load:
            start = time.monotonic()
            os.kill(pair.rank(1 - number % 2), signal.SIGKILL)
            failed.append(max(load.failed_after(start, 10.0)))
        pair.ready(number + 2)
        restarted.append(time.monotonic() - start)
        assert greedy_replies(pair.url) == expected
    with httpx.Client(base_url=pair.url, timeout=10) as http:
        assert f"guildllama_engine_restarts_total {ROUNDS}.0" in http.get("/metrics").text
    machine.report(
        "kill -9 of rank 1 and rank 0 in turn",
        clients=CLIENTS,
        last_client_told_s=[round(seconds, 2) for seconds in failed],
        group_back_s=[round(seconds, 1) for seconds in restarted],
    )


def test_an_idle_group(idle_world: World) -> None:
    """No request for three group timeouts, then a reply."""
    idle_world.wait_for("ready", 90)
    idle_world.wait_for("reply", 60)
    assert idle_world.codes(20) == [0, 0], idle_world.said
    assert "closed None" in idle_world.said[0]
    machine.report("an idle night", silence_s=IDLE["silence"], group_timeout_s=4.0, answered=True)


def test_sigterm_leaves_nothing_behind(pair: EngineProcess, memory_before: list[int]) -> None:
    pair.ready()
    pids, during = [pair.process.pid, *children(pair.process.pid)], machine.gpu_memory()
    with Load(pair.url, CLIENTS) as load:
        start = time.monotonic()
        seconds = pair.terminate()
        load.failed_after(start, 10.0)
    assert not any(alive(pid) for pid in pids)
    after = machine.memory_returns_to(memory_before, 5.0)
    machine.report(
        "SIGTERM under load", gone_s=round(seconds, 2), gpu_mib={"before": memory_before, "at": during, "after": after}
    )
    assert seconds < 5
    assert all(now <= before + 16 for now, before in zip(after, memory_before, strict=True))


def test_logits_of_7b(checkpoints: dict[str, machine.WrittenCheckpoint], tmp_path: Path) -> None:
    """Prefill and decode through all layers: equal in fp32; in bf16 equally far from fp32 on any number of GPUs.

    Random weights amplify bf16's rounding: two orders of summation differ as much from each other as from fp32, by a
    few per cent after 32 layers.
    """
    model = str(checkpoints["7b"].folder)

    def compute(job: tuple[int, str]) -> list[np.ndarray]:
        size, dtype = job
        out = tmp_path / f"{size}-{dtype}.npz"
        worker = ("tests.gpu.logits_worker", model, machine.DEVICE, dtype, str(out))
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")
        machine.run_module("torch.distributed.run", "--nproc-per-node", str(size), *rendezvous, "-m", *worker)
        with np.load(out) as steps:
            return [steps[name] for name in steps.files]

    jobs = [(size, dtype) for dtype in ("float32", "bfloat16") for size in WORLDS]
    with ThreadPoolExecutor(len(jobs)) as threads:
        found = dict(zip(jobs, threads.map(compute, jobs), strict=True))
    reference, one_gpu = found[1, "float32"], found[1, "bfloat16"]
    assert [len(step) for step in reference] == [1, 1, 1, 1, 4]
    for size in WORLDS[1:]:
        float32 = relative_errors(reference, found[size, "float32"])
        one = relative_errors(reference, one_gpu)
        several = relative_errors(reference, found[size, "bfloat16"])
        between = relative_errors(one_gpu, found[size, "bfloat16"])
        machine.report(
            "logits of 7B's shape", world_size=size, fp32=f"{max(float32):.1e}", bf16_one_gpu_from_fp32=rounded(one),
            bf16_from_fp32=rounded(several), bf16_from_one_gpu=rounded(between),
        )  # fmt: skip
        assert max(float32) < 1e-3
        assert sum(several) < 1.3 * sum(one)
    checkpoints["7b"].delete()


def relative_errors(expected: list[np.ndarray], found: list[np.ndarray]) -> list[float]:
    """|expected - found| / |expected| of each step's logits."""
    return [float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in zip(expected, found, strict=True)]


def rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.2g}") for value in values]


def test_70b_answers(checkpoints: dict[str, machine.WrittenCheckpoint], tmp_path: Path) -> None:
    """Grouped-query attention and eight shards on two ranks; only some of the layers."""
    written = checkpoints["70b"]
    start = time.monotonic()
    with EngineProcess("--model", str(written.folder), "--port", "0", *DEVICE, ranks=2, log=tmp_path / "log") as engine:
        engine.ready()
        ready = time.monotonic() - start
        with httpx.Client(base_url=engine.url, timeout=60) as http:
            start = time.monotonic()
            body = ask(http, [{"role": "user", "content": "Hello?"}], max_tokens=40, ignore_eos=True).json()
            seconds = time.monotonic() - start
        assert body["usage"]["completion_tokens"] == 40
        hosts = [round(machine.peak_host_bytes(engine.rank(rank)) / 2**30, 2) for rank in (0, 1)]
        gpu = machine.gpu_memory()
    machine.report(
        "70B's shape on two ranks", layers=LAYERS, gb=round(written.gigabytes, 1), ready_s=round(ready, 1),
        chat_40_tokens_s=round(seconds, 2), host_gib=hosts, gpu_mib=gpu,
    )  # fmt: skip
