"""What one rank of a test does, in a process of its own (see world.py)."""

import dataclasses
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore
from engine.core.follower import run_worker, worker_loop
from engine.core.kv_files import cache_files
from engine.core.step_loop import StepLoop
from engine.core.worker import scheduler_from_config, start_worker
from engine.distributed.communicator import connect
from engine.errors import ConfigError, EngineError
from engine.kv_store.settings import StoreSettings
from engine.layers.paged_attention import DenseAttention
from engine.model.transformer import Transformer
from engine.offline import OfflineEngine
from engine.runner.torch_runner import TorchRunner
from engine.runner.torch_step import TorchStepHandle
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.step_plan import StepPlan


@torch.inference_mode()
def all_logits(model: Transformer, ids: list[int]) -> torch.Tensor:
    """The logits of every position, [len(ids), vocab]."""
    device = model.rope.device
    positions = torch.arange(len(ids), device=device)
    hidden = model(torch.tensor(ids, device=device), positions, DenseAttention(len(ids), device))
    return model.logits(hidden).cpu()


def parity(config: EngineConfig, model: str, prompts: list[list[int]], lengths: list[int], out: str) -> None:
    """All logits of the prompts, then their greedy replies through scheduler, plans and runners."""
    communicator = connect(config)
    worker = start_worker(config, open_checkpoint(model), communicator)
    logits = [all_logits(worker.model, prompt).numpy() for prompt in prompts]
    if config.rank:
        np.savez(f"{out}.{config.rank}.npz", *logits)
        return worker_loop(worker.runner, communicator)
    small = dataclasses.replace(config, max_num_seqs=4, max_prefill_tokens=32, burst_prefill_tokens=0)
    scheduler = scheduler_from_config(small, worker)
    step_loop = StepLoop(config, scheduler, worker.runner, communicator)
    requests = [
        Request(n, list(prompt), SamplingParams(temperature=0.0, max_tokens=length))
        for n, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    for request in requests:
        scheduler.add_request(request)
    while any(request.status is not RequestStatus.FINISHED for request in requests):
        step_loop.step()
    step_loop.stop()
    step_loop.close()
    np.savez(f"{out}.0.npz", *logits)
    return Path(f"{out}.json").write_text(json.dumps([request.output_token_ids for request in requests])) and None


def families(config: EngineConfig, model: str, models: list[dict[str, Any]], length: int, out: str) -> None:
    """`parity` for several models, one after the other; every rank schedules for itself and writes its own results.

    It takes from `config` the device, the sizes of batch and cache, and how to draft.
    """
    communicator = connect(config)
    logits, replies = [], []
    for each in models:
        checkpoint = open_checkpoint(each["model"])
        quantize, context = each.get("quantize", "auto"), each["max_context"]
        resolved = resolve(
            checkpoint.spec, device=config.device.type, quantize=quantize, max_context=context,
            max_num_seqs=config.max_num_seqs, max_prefill_tokens=16,
        )  # fmt: skip
        kept = {name: getattr(config, name) for name in ("num_kv_pages", "num_host_slots", "speculate")}
        config = dataclasses.replace(resolved, dtype=torch.float32, **kept)
        worker = start_worker(config, checkpoint, communicator)
        logits.append(all_logits(worker.model, each["prompts"][0]).numpy())
        engine = OfflineEngine(config, communicator, worker)
        params = SamplingParams(temperature=0.0, max_tokens=length)
        replies.append(engine.generate(each["prompts"], params, [0] * len(each["prompts"])))
        worker.runner.close()
        checkpoint.close()
    np.savez(f"{out}.{config.rank}.npz", *logits)
    Path(f"{out}.{config.rank}.json").write_text(json.dumps(replies))
    communicator.close()


def serve(
    config: EngineConfig, model: str, silence: float = 0.0, length: int = 8, rounds: int = 1, break_rank: int = -1,
    stuck_rank: int = -1,
) -> None:  # fmt: skip
    """Rank 0 is idle for `silence` seconds, then prints its progress, its replies and how it ended."""
    checkpoint = open_checkpoint(model)
    if config.rank == break_rank:
        break_after(20)
    if config.rank == stuck_rank:
        get_stuck_after(20)
    if config.rank:
        return run_worker(config, checkpoint)
    engine = EngineCore.start(config, checkpoint)
    say("ready")
    time.sleep(silence)
    for _ in range(rounds):
        try:
            stream = engine.submit([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True))
            while stream.finish_reason is None:
                say(f"tokens {len(stream.token_ids)}")
                time.sleep(0.05)
            say(f"reply {stream.result()}")
        except EngineError as error:
            say(f"failed {error}")
            time.sleep(60)
    engine.close()
    say(f"closed {engine.failure}")


def dialogs(config: EngineConfig, model: str, prompts: list[list[int]], length: int, rounds: int = 2) -> None:
    """Rank 0 asks for all prompts' replies, `rounds` times; it prints the replies and how many tokens it restored."""
    checkpoint = open_checkpoint(model)
    if config.rank:
        return run_worker(config, checkpoint)
    engine = EngineCore.start(config, checkpoint)
    deadline = time.monotonic() + 30
    while engine.stats().kv_host_tokens_total < (config.num_host_slots or 0) * config.page_size:
        assert time.monotonic() < deadline, "the slots of the host tier are not ready"
        time.sleep(0.05)
    params = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True)
    say(f"replies {json.dumps([engine.submit(prompt, params).result(60) for prompt in prompts * rounds])}")
    say(f"restored {engine.stats().kv_tokens_restored}")
    say(f"accepted {engine.stats().accepted_tokens}")
    say(f"erased {engine.erase('').result(60)}")
    say(f"left {engine.stats().kv_tokens_cached} {engine.stats().kv_host_tokens_used}")
    return engine.close()


def restart(
    config: EngineConfig, model: str, prompts: list[list[int]], folder: str, erases: bool = False, stays: bool = False
) -> None:
    """Rank 0 asks for each prompt's reply, says how much of it was cached, and stops or `stays`; all keep files."""
    if stays:
        cache_files.COMMIT_INTERVAL = 0.2  # type: ignore[misc]
    checkpoint = open_checkpoint(model)
    config = dataclasses.replace(config, kv_store=StoreSettings(Path(folder), bytes(range(32))))
    if config.rank:
        return run_worker(config, checkpoint)
    engine = EngineCore.start(config, checkpoint)
    streams = [
        engine.submit(prompt, SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)) for prompt in prompts
    ]
    replies = [stream.result(60) for stream in streams]
    if erases:
        engine.erase("").result(60)
    say(json.dumps({"replies": replies, "cached": [stream.usage.cached_tokens for stream in streams]}))
    time.sleep(600 if stays else 0)
    return engine.close()


def break_after(steps: int) -> None:
    """This rank runs out of device memory in a later step."""
    execute_async, count = TorchRunner.execute_async, itertools.count()

    def failing(self: TorchRunner, plan: StepPlan) -> TorchStepHandle:
        if next(count) >= steps:
            raise torch.OutOfMemoryError("no memory left")
        return execute_async(self, plan)

    TorchRunner.execute_async = failing  # type: ignore[method-assign]


def get_stuck_after(steps: int) -> None:
    """A later step of this rank never ends, like one whose peer left a collective on the GPU."""
    wait, count = TorchRunner.wait, itertools.count()

    def waiting(self: TorchRunner, handle: TorchStepHandle) -> dict[int, int]:
        if next(count) >= steps:
            say("stuck")
            time.sleep(600)
        return wait(self, handle)

    TorchRunner.wait = waiting  # type: ignore[method-assign]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(job: str, arguments: dict[str, Any]) -> None:
    """Do the job; ends the process with code 78 at a ConfigError."""
    torch.set_num_threads(1)
    changes = arguments.pop("config", {})
    try:
        spec = open_checkpoint(arguments["model"]).spec
        device, dtype = arguments.pop("device", "cpu"), arguments.pop("dtype", "auto")
        config = dataclasses.replace(resolve(spec, device=device, dtype=dtype, max_context=256), **changes)
        {"parity": parity, "families": families, "serve": serve, "dialogs": dialogs, "restart": restart}[job](
            config, **arguments
        )
    except ConfigError as error:
        say(str(error))
        os._exit(78)
