"""One GPU: checkpoints of published shapes are inspected, loaded and served; two ranks share the GPU."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.server.process import EngineProcess, ask
from tests.gpu import machine
from tests.gpu.replies import greedy_replies

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
SHARDS = {"7b": 1, "13b": 2}
LOAD_SPEED = "docs/bench/scripts/load_speed.py"


@pytest.fixture(scope="module")
def checkpoints(disk: Path) -> Iterator[dict[str, machine.WrittenCheckpoint]]:
    """The 7B checkpoint; the test of 7B adds the 13B one after it has measured how fast 7B loads."""
    written = {"7b": machine.write_checkpoint(disk / "7b", "7b")}
    yield written
    for each in written.values():
        each.delete()


@pytest.mark.parametrize("shape", ["7b", "13b"])
def test_a_published_shape(
    shape: str, checkpoints: dict[str, machine.WrittenCheckpoint], disk: Path, tmp_path: Path
) -> None:
    if shape not in checkpoints:
        checkpoints[shape] = machine.write_checkpoint(disk / shape, shape)
    written = checkpoints[shape]
    folder, before = written.folder, machine.gpu_memory()[0]
    inspected = json.loads(machine.run_module("engine", "inspect", str(folder), "--json"))
    assert (inspected["format"], inspected["shards"]) == ("meta", SHARDS[shape])
    load = json.loads(machine.run_python(LOAD_SPEED, str(folder), "--device", machine.DEVICE, "--once"))
    if shape == "7b":
        checkpoints["13b"] = machine.write_checkpoint(disk / "13b", "13b")
    flags = ("--model", str(folder), "--port", "0", "--device", machine.DEVICE)
    with EngineProcess(*flags, log=tmp_path / "log") as engine:
        start = time.monotonic()
        engine.ready()
        ready = time.monotonic() - start
        with httpx.Client(base_url=engine.url, timeout=60) as http:
            reply_seconds = []
            for _ in range(2):
                start = time.monotonic()
                body = ask(http, HELLO, max_tokens=40, ignore_eos=True).json()
                reply_seconds.append(round(time.monotonic() - start, 3))
                assert body["choices"][0]["message"]["content"]
                assert body["usage"]["completion_tokens"] == 40
        used, host = machine.gpu_memory()[0] - before, machine.peak_host_bytes(engine.process.pid)
        assert engine.terminate() < 5
    machine.report(
        f"{shape} on one GPU",
        parameters=inspected["parameters"],
        written_gb=round(written.gigabytes, 2),
        written_s=round(written.seconds, 1),
        **load,
        of_disk=round(load["cold_gb_s"] / load["disk_8_gb_s"], 2),
        warm_ready_s=round(ready, 1),
        weights_gib=round(inspected["weight_bytes_per_rank"] / 2**30, 1),
        gpu_mib=used,
        host_gib=round(host / 2**30, 2),
        chat_40_tokens_s=reply_seconds,
    )
    written.delete()


def test_two_ranks_on_one_gpu(disk: Path, tmp_path: Path) -> None:
    """Two ranks over gloo reply as one rank does. Both servers run at the same time, so each has a small KV cache."""
    small = machine.write_checkpoint(disk / "small", "small")
    flags = ("--model", str(small.folder), "--port", "0", "--device", machine.DEVICE, "--dtype", "float32")
    limits = ("--max-seq-len", "1024", "--kv-memory", "8192", "--max-batch", "8", "--share-gpu")
    with (
        EngineProcess(*flags, *limits, log=tmp_path / "one") as one,
        EngineProcess(*flags, *limits, ranks=2, log=tmp_path / "two") as two,
    ):
        alone = greedy_replies(one.ready().url)
        assert greedy_replies(two.ready().url) == alone
    machine.report("two ranks share a GPU over gloo", dialogs=len(alone), equal=True)
    small.delete()
