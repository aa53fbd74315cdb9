"""The profile of two ranks: real steps of a tiny model, and made-up times of kernels, as there is no GPU."""

import argparse
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.queues import Queue

import pytest
import torch

from engine.bench.kernel_times import FIRST, Kernel
from engine.bench.profile import needed_shapes, profile
from engine.bench.random_model import RandomCheckpoint, spec
from engine.bench.steps import step_config
from engine.core.worker import load_weights
from engine.distributed.communicator import connect
from engine.runner.cuda.batch.input_batch import BatchShape
from engine.runner.torch_runner import TorchRunner

WORLD = 2
OPTIONS = argparse.Namespace(
    model="tiny", layers=1, quantize="none", kv_dtype="auto", rows=[1, 2], context=20, prompts=[24], beside=[8], steps=2
)


def made_up(run: Callable[[], object], rank: int, loses: bool) -> list[Kernel]:
    """Six steps of 100 µs: rank 1 computes 60 µs, rank 0 waits for it. `loses`: rank 1's profiler lost all kernels."""
    run()
    busy = 60 if rank else 40
    steps = [] if loses and rank else range(0, 600, 100)
    return [
        kernel
        for start in steps
        for kernel in (
            Kernel(FIRST, start, start + 1),
            Kernel("matmul_kernel", start + 1, start + 1 + busy),
            Kernel("all_reduce_kernel", start + 1 + busy, start + 66),
            Kernel("advance_kernel", start + 66, start + 70),
        )
    ]


def run_rank(rank: int, port: int, results: "Queue[list[dict[str, object]]]") -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORLD),
        "RANK": str(rank), "LOCAL_RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    checkpoint = RandomCheckpoint(spec("tiny", 1, context=128))
    config = step_config(checkpoint.spec, OPTIONS, device="cpu", speculate="off", extra_rows=1)
    communicator = connect(config)
    runner = TorchRunner(config, load_weights(config, checkpoint), 40 * config.max_num_seqs)
    lines: list[dict[str, object]] = []
    for options, loses in (
        (OPTIONS, False),
        (argparse.Namespace(**vars(OPTIONS) | {"rows": [1], "prompts": [], "beside": []}), True),
    ):
        lines += profile(config, communicator, runner, options, lambda run: made_up(run, rank, loses))  # noqa: B023
    if rank == 0:
        results.put(lines)
    runner.close()
    communicator.close()


@pytest.mark.long
def test_two_ranks_profile_the_same_steps() -> None:
    processes = multiprocessing.get_context("spawn")
    results = processes.Queue()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = [processes.Process(target=run_rank, args=(rank, port, results), daemon=True) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    one, two, *mixed, prompt, lost = results.get(timeout=1)
    assert (one["rows"], two["rows"], prompt["tokens"]) == (1, 2, 24)
    assert [(line["rows"], line["tokens"]) for line in mixed] == [(1, 8), (2, 8)]
    for line in (one, two, *mixed, prompt):
        assert isinstance(line["ms"], float)
        assert line["ms"] > 0
        assert (line["steps"], line["step_ms"], line["products_ms"]) == (3, 0.1, 0.05)
        assert (line["collectives_ms"], line["exchange_ms"], line["skew_ms"]) == (0.015, 0.005, 0.01)
        assert line["wait_ms_by_rank"] == [0.02, 0.0]
        assert line["between_ms"] == 0.03
    assert "error" in lost  # and neither rank waits for the other
    assert "exchange_ms" not in lost


def test_only_the_shapes_of_the_profiled_steps_are_recorded() -> None:
    sizes = {"rows": [1, 12, 32], "context": 580, "prompts": [512, 2048], "beside": []}
    options = argparse.Namespace(**vars(OPTIONS) | sizes)
    config = step_config(spec("7b"), options, device="cpu", speculate="off")
    shapes = needed_shapes(config, options)
    assert shapes == [BatchShape(1, 0), BatchShape(16, 0), BatchShape(32, 0), BatchShape(0, 512), BatchShape(0, 2048)]
    options.rows, options.prompts, options.beside = [32], [], [64]
    config = step_config(spec("7b"), options, device="cpu", speculate="off", extra_rows=1)
    assert config.max_num_seqs == 33
    shapes = needed_shapes(config, options)
    assert len(shapes) == 4
    assert shapes[-1].num_slots >= 32
    assert shapes[-1].num_prefill_tokens >= 64
