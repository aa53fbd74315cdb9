"""`python -m engine.bench cpu`: the embedded model on this machine's cores, at each width of weights.

Decode speed of one user and of eight, the time of a long prompt, and what the narrower weights lose against 32 bits.
Each speed is the median of several runs: other programs on the machine show in the spread.
"""

import asyncio
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.bench import trace
from engine.bench.drive import Sampling, at_once
from engine.bench.local import Local, TimedEngine
from engine.bench.loss import compare, read_texts
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.worker import load_weights
from engine.layers.paged_attention import DenseAttention
from engine.runner.cpu.build import compiled_library

WIDTHS = ("none", "int8", "int4")
RUNS = 5
PROMPT, OUTPUT = 64, 64
LONG_PROMPT = 512
LOSS_TOKENS = 512


def lines() -> Iterator[dict[str, object]]:
    """One measurement a line; `auto` says whether these weights are what this machine gets when nobody chooses."""
    checkpoint = open_checkpoint("smollm2")
    texts = read_texts(checkpoint, LOSS_TOKENS)
    with torch.inference_mode():
        whole = [_log_probabilities(checkpoint, "none", ids) for ids in texts]
    usual = _config(checkpoint, "auto")
    for quantize in WIDTHS:
        config = _config(checkpoint, quantize)
        facts = {
            "quantize": quantize,
            "auto": quantize == usual.quantize,
            "native": quantize != "none" and config.native and compiled_library() is not None,
            "threads": config.num_threads,
            **_machine(),
        }
        for line in _speeds(config, checkpoint):
            yield {"engine": "guildllama", **line, **facts}
        if quantize != "none":
            with torch.inference_mode():
                packed = [_log_probabilities(checkpoint, quantize, ids) for ids in texts]
            yield {"engine": "guildllama", "workload": "cpu-loss", **compare(whole, packed, texts), **facts}


def _speeds(config: EngineConfig, checkpoint: Checkpoint) -> Iterator[dict[str, object]]:
    engine = TimedEngine.start(config, checkpoint)
    if not isinstance(engine, TimedEngine):
        raise TypeError
    try:
        for users in (1, 8):
            rates, firsts = [], []
            for run in range(RUNS):
                asks = [
                    trace.Ask([(number * 977 + run * 131 + at * 7) % 40000 + 1000 for at in range(PROMPT)], OUTPUT)
                    for number in range(users)
                ]
                record = asyncio.run(at_once(Local(engine), asks, Sampling()))
                start = max(sent.times[0] for sent in record.sent)  # all are past their prompts
                end = max(sent.times[-1] for sent in record.sent)
                later = sum(time > start for sent in record.sent for time in sent.times)
                rates.append(later / (end - start))
                firsts.append(end - record.start)
            yield {
                "workload": f"cpu-{users}",
                "output_tok_s": round(statistics.median(rates), 1),
                "least": round(min(rates), 1),
                "most": round(max(rates), 1),
                "makespan_s": round(statistics.median(firsts), 3),
            }
        times = []
        for run in range(RUNS):
            ask = trace.Ask([(run * 131 + at * 13) % 40000 + 1000 for at in range(LONG_PROMPT)], 1)
            record = asyncio.run(at_once(Local(engine), [ask], Sampling()))
            times.append(record.sent[0].times[0] - record.start)
        yield {
            "workload": "cpu-prompt",
            "prompt_tok_s": round(LONG_PROMPT / statistics.median(times), 1),
            "makespan_s": round(statistics.median(times), 3),
        }
    finally:
        engine.close()


def _log_probabilities(checkpoint: Checkpoint, quantize: str, ids: list[int]) -> Tensor:
    config = _config(checkpoint, quantize)
    model = load_weights(config, checkpoint)
    hidden = model(torch.tensor(ids), torch.arange(len(ids)), DenseAttention(len(ids), config.device))
    return model.logits(hidden).double().log_softmax(-1)


def _config(checkpoint: Checkpoint, quantize: str) -> EngineConfig:
    return resolve(checkpoint.spec, device="cpu", quantize=quantize, max_context=2048, seed=1)


def _machine() -> dict[str, object]:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return {
        "model": "SmolLM2-135M-Instruct.Q4_1",
        "device": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": "float32",
        "world_size": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
