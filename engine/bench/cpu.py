"""`python -m engine.bench cpu`: the embedded model on this machine's CPU, with float32, int8 and int4 weights.

Measures decode speed with one user and with eight, prefill speed, and the loss of quantized weights against float32.
Each speed is the median of several runs; their range shows the influence of other programs on the machine, and so does
the CPU time beside it. With `--model SHAPE` it measures the speeds of a random model with quantized weights.
"""

import asyncio
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.bench import trace
from engine.bench.drive import Sampling, send_all
from engine.bench.local import LocalClient, TimedEngine
from engine.bench.loss import compare, read_texts
from engine.bench.random_model import RandomCheckpoint, spec
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.worker import load_weights
from engine.layers.paged_attention import DenseAttention
from engine.runner.cpu.build import compiled_library

QUANTIZE = ("none", "int8", "int4")
RUNS = 5
PROMPT_LEN, OUTPUT_LEN = 64, 64
LONG_PROMPT_LEN, RANDOM_PROMPT_LEN = 512, 256  # of the embedded model, of a random one
LOSS_TOKENS = 512


def lines() -> Iterator[dict[str, object]]:
    """The measurements; "auto" says whether `--quantize auto` chooses these weights on this machine."""
    checkpoint = open_checkpoint("smollm2")
    texts = read_texts(checkpoint, LOSS_TOKENS)
    with torch.inference_mode():
        reference = [_log_probabilities(checkpoint, "none", ids) for ids in texts]
    default = _config(checkpoint, "auto")
    for quantize in QUANTIZE:
        config = _config(checkpoint, quantize)
        facts = {
            "quantize": quantize,
            "auto": quantize == default.quantize,
            "native": quantize != "none" and config.native and compiled_library() is not None,
            "threads": config.num_threads,
            "model": "SmolLM2-135M-Instruct.Q4_1",
            **machine(),
        }
        for line in _speeds(config, checkpoint, RUNS, LONG_PROMPT_LEN):
            yield {"engine": "guildllama", **line, **facts}
        if quantize != "none":
            with torch.inference_mode():
                quantized = [_log_probabilities(checkpoint, quantize, ids) for ids in texts]
            yield {"engine": "guildllama", "workload": "cpu-loss", **compare(reference, quantized, texts), **facts}


def random_lines(shape: str, quantize: str, chunk: int | None, runs: int) -> Iterator[dict[str, object]]:
    """The speeds of a random model of a published shape."""
    checkpoint = RandomCheckpoint(spec(shape))
    config = _config(checkpoint, quantize, chunk)
    facts = {"model": shape, "quantize": quantize, "chunk": config.max_prefill_tokens, "threads": config.num_threads}
    for line in _speeds(config, checkpoint, runs, RANDOM_PROMPT_LEN):
        yield {"engine": "guildllama", **line, **facts, **machine()}


def _speeds(config: EngineConfig, checkpoint: Checkpoint, runs: int, prompt_len: int) -> Iterator[dict[str, object]]:
    engine = TimedEngine.start(config, checkpoint)
    try:
        for users in (1, 8):
            rates, makespans, cpu_times = [], [], []
            for run in range(runs):
                requests = [trace.PromptRequest(_prompt(user, run), OUTPUT_LEN) for user in range(users)]
                cpu_start = time.process_time()
                record = asyncio.run(send_all(LocalClient(engine), requests, Sampling()))
                start = max(request.token_times[0] for request in record.requests)  # every prompt is prefilled
                end = max(request.token_times[-1] for request in record.requests)
                decoded = sum(time > start for request in record.requests for time in request.token_times)
                rates.append(decoded / (end - start))
                makespans.append(end - record.started_at)
                cpu_times.append(time.process_time() - cpu_start)
            yield {
                "workload": f"cpu-{users}",
                "output_tok_s": round(statistics.median(rates), 1),
                "least": round(min(rates), 1),
                "most": round(max(rates), 1),
                "makespan_s": round(statistics.median(makespans), 3),
                "cpu_s": round(statistics.median(cpu_times), 3),
            }
        times, cpu_times = [], []
        for run in range(runs):
            prompt = [(run * 131 + i * 13) % 30000 + 1000 for i in range(prompt_len)]
            cpu_start = time.process_time()
            record = asyncio.run(send_all(LocalClient(engine), [trace.PromptRequest(prompt, 1)], Sampling()))
            times.append(record.requests[0].token_times[0] - record.started_at)
            cpu_times.append(time.process_time() - cpu_start)
        yield {
            "workload": "cpu-prompt",
            "prompt_tok_s": round(prompt_len / statistics.median(times), 1),
            "makespan_s": round(statistics.median(times), 3),
            "cpu_s": round(statistics.median(cpu_times), 3),
        }
    finally:
        engine.close()


def _prompt(user: int, run: int) -> list[int]:
    return [(user * 977 + run * 131 + i * 7) % 30000 + 1000 for i in range(PROMPT_LEN)]


def _log_probabilities(checkpoint: Checkpoint, quantize: str, ids: list[int]) -> Tensor:
    config = _config(checkpoint, quantize)
    model = load_weights(config, checkpoint)
    hidden = model(torch.tensor(ids), torch.arange(len(ids)), DenseAttention(len(ids), config.device))
    return model.logits(hidden).double().log_softmax(-1)


def _config(checkpoint: Checkpoint, quantize: str, chunk: int | None = None) -> EngineConfig:
    return resolve(checkpoint.spec, device="cpu", quantize=quantize, max_context=2048, max_prefill_tokens=chunk, seed=1)


def machine() -> dict[str, object]:
    """What is measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return {
        "device": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": "float32",
        "world_size": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
