"""`python -m engine.bench W1 W2 …`: run workloads and print one JSON line for each run.

The default model is a random one of Llama 2 7B's shape, on the GPU. The engine records all its steps before the first
workload. The first run of each workload is a warm-up and not printed, unless `--runs 1`. Each run has its own tenants,
so no run has prefix hits in the cache of an earlier one.
"""

import argparse
import asyncio
import platform
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import torch

from engine.bench import cpu, drafts, oracle, restart
from engine.bench.drive import Client, RunRecord, Sampling, quantile
from engine.bench.http import HttpClient
from engine.bench.local import LocalClient, TimedEngine
from engine.bench.random_model import SHAPES, RandomCheckpoint, spec
from engine.bench.report import emit, today
from engine.bench.trace import VOCAB
from engine.bench.workloads import OLD_ROWS, WORKLOADS, rows_of
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.follower import run_worker
from engine.core.garbage import freeze_gc
from engine.runner.memory import host_slots_in, pages_in

DEFAULT_WORKLOADS = ("W1", "W1s", "W2", "W3", "W4", "W5", "W5t", "W6", "W6b")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.workloads == ["cpu"]:
        random = options.model in SHAPES
        for line in (
            cpu.random_lines(options.model, options.quantize, options.chunk, options.runs) if random else cpu.lines()
        ):
            emit({**line, "date": today()})
        return 0
    if options.workloads == ["C4"]:
        model = options.model or "smollm2"
        checkpoint, _ = setup(argparse.Namespace(**{**vars(options), "model": model}))
        for line in restart.lines(checkpoint, model, options.device, options.quantize, options.runs):
            emit({**line, "date": today()})
        return 0
    if options.workloads == ["W10"]:
        device = "cpu" if options.device == "auto" else options.device
        for line in drafts.lines(options.model or "smollm2", options.quantize, options.runs, device):
            emit({**line, "date": today()})
        return 0
    if options.workloads == ["W10.o"]:
        options.model = options.model or "7b"
        options.max_batch = options.max_batch or OLD_ROWS
        checkpoint, config = setup(options)
        for line in oracle.lines(config, checkpoint, options.runs, options.scale):
            emit({"engine": "guildllama", **line, **environment(config, options)})
        return 0
    options.workloads = options.workloads or list(DEFAULT_WORKLOADS)
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"unknown workload: {unknown[0]}")
    if options.http:
        return over_http(options)
    options.model = options.model or "7b"
    try:
        options.max_batch = options.max_batch or rows_of(options.workloads)
    except ValueError as error:
        parser.error(str(error))
    checkpoint, config = setup(options)
    if config.rank:
        run_worker(config, checkpoint)
        return 0
    engine = TimedEngine.start(config, checkpoint)
    freeze_gc(defer_full=True)  # as the server does
    engine.wait_until_prepared()
    try:
        for name in options.workloads:
            for number in range(options.runs):
                line = asyncio.run(run(engine, name, checkpoint.spec.vocab_size, options.scale, f"{name}{number}"))
                if number or options.runs == 1:
                    emit({"engine": "guildllama", "workload": name, **line, **environment(engine.config, options)})
    finally:
        engine.close()
    return 0


def setup(options: argparse.Namespace) -> tuple[Checkpoint, EngineConfig]:
    """The checkpoint and the configuration that the options ask for."""
    checkpoint: Checkpoint
    if options.model in SHAPES:
        checkpoint = RandomCheckpoint(spec(options.model, options.layers))
    else:
        checkpoint = open_checkpoint(options.model)
    config = resolve(
        checkpoint.spec, device=options.device, dtype=options.dtype, max_num_seqs=options.max_batch,
        max_context=min(checkpoint.spec.max_context, 4096), share_gpu=options.share_gpu, quantize=options.quantize,
        kv_dtype=options.kv_dtype, max_prefill_tokens=options.chunk,
    )  # fmt: skip
    if options.kv_memory is not None:
        config = replace(config, num_kv_pages=pages_in(options.kv_memory, checkpoint.spec, config))
    config = replace(config, num_host_slots=host_slots_in(options.kv_host_memory, checkpoint.spec, config))
    return checkpoint, replace(config, max_waiting=4096, seed=1)


def over_http(options: argparse.Namespace) -> int:
    """Send the same requests to a running server; returns the exit code."""
    address, _, model = options.http.rpartition(":")
    host, _, port = address.rpartition(":")
    for name in options.workloads:
        for number in range(options.runs):
            client = TaggedClient(HttpClient(host.strip("[]"), int(port), model), f"{name}h{number}")
            line = asyncio.run(_prepared(client, name, VOCAB, options.scale)).summary()
            if number or options.runs == 1:
                emit({"engine": "guildllama over HTTP", "workload": name, **line, "model": model, "date": today()})
    return 0


async def _prepared(client: Client, name: str, vocab: int, scale: float) -> RunRecord:
    """A workload after its preparation."""
    workload = WORKLOADS[name]
    await workload.prepare(client, vocab, scale)
    return await workload.drive(client, vocab, scale)


async def run(engine: TimedEngine, name: str, vocab: int, scale: float, tag: str) -> dict[str, object]:
    """One run: its summary, and the prompt tokens that no prefix hit saved. `tag` separates its cache."""
    client = TaggedClient(LocalClient(engine), tag)
    await WORKLOADS[name].prepare(client, vocab, scale)
    engine.reset_measurement()
    before = engine.stats()
    record = await WORKLOADS[name].drive(client, vocab, scale)
    after = engine.stats()
    return {
        **record.summary(),
        "prompt_tokens": after.prompt_tokens - before.prompt_tokens
        or sum(request.num_prompt_tokens for request in record.requests),
        "prompt_tokens_computed": after.prompt_tokens_computed - before.prompt_tokens_computed,
        "prompt_tokens_restored": after.kv_tokens_restored - before.kv_tokens_restored,
        "kv_tokens_saved": after.kv_tokens_saved - before.kv_tokens_saved,
        "kv_tokens_evicted": after.kv_tokens_evicted - before.kv_tokens_evicted,
        "kv_tokens_total": after.kv_tokens_total,
        "kv_host_tokens_total": after.kv_host_tokens_total,
        "steps": after.steps - before.steps,
        "ttft_admitted_p50_ms": round(1000 * quantile(sorted(engine.ttft_after_admission), 0.5), 1),
        "ttft_admitted_p95_ms": round(1000 * quantile(sorted(engine.ttft_after_admission), 0.95), 1),
    }


class TaggedClient:
    """Adds a tag to the tenants of each request, so that runs share no cached prefix."""

    def __init__(self, inner: Client, tag: str) -> None:
        self._inner, self._tag = inner, tag

    def stream(
        self, prompt: list[int], output_len: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        """See `drive.Client`."""
        return self._inner.stream(prompt, output_len, sampling, client=client, tenant=f"{tenant}/{self._tag}")


def environment(config: EngineConfig, options: argparse.Namespace) -> dict[str, object]:
    """What the run was measured on, for its JSON line."""
    gpu = config.device.type == "cuda"
    return {
        "model": options.model,
        "layers": options.layers,
        "device": torch.cuda.get_device_name(config.device) if gpu else platform.processor() or platform.machine(),
        "dtype": str(config.dtype).removeprefix("torch."),
        "quantize": config.quantize,
        "kv_dtype": config.kv_dtype,
        "world_size": config.world_size,
        "memory_gib": round(torch.cuda.memory_reserved(config.device) / 2**30, 1) if gpu else None,
        "max_batch": config.max_num_seqs,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": today(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.bench", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="|".join((*WORKLOADS, "cpu", "C4", "W10", "W10.o")))
    parser.add_argument(
        "--http", metavar="HOST:PORT:MODEL", help="a running server instead of an engine in this process"
    )
    parser.add_argument(
        "--model",
        help=f"a checkpoint, or a random one: {', '.join(SHAPES)} (default: 7b, for `cpu` the embedded model)",
    )
    parser.add_argument("--layers", type=int, help="layers of a random model (default: as its shape has)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--kv-memory", metavar="SIZE", help="KV cache of each rank: 8GiB, or a number of tokens")
    parser.add_argument("--kv-host-memory", default="auto", metavar="SIZE", help="auto, 64GiB, or 0: no host tier")
    parser.add_argument("--share-gpu", action="store_true", help="ranks may share a GPU, over gloo: never fast")
    parser.add_argument("--max-batch", type=int, help="rows; by default as each workload's definition says")
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--runs", type=int, default=4, help="the first is a warm-up, unless it is the only one")
    parser.add_argument("--scale", type=float, default=1.0, help="shorter prompts and replies")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
