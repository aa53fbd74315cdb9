"""`python -m engine.bench C4`: a dialog of 1,440 tokens, asked again after a restart of the engine.

With and without files. The engine is started anew in this process, over files in a temporary folder. Time is from the
request to its first token; what the restart itself takes is reported beside it.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engine.bench.cpu import machine
from engine.checkpoint import Checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.kv_store.settings import KEY_BYTES, StoreSettings

DIALOG_TOKENS = 1440
ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)


def lines(checkpoint: Checkpoint, model: str, device: str, quantize: str, runs: int) -> Iterator[dict[str, object]]:
    """One line without files, one with them."""
    config = resolve(checkpoint.spec, device=device, quantize=quantize, max_context=2048, seed=1)
    for keeps in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            store = StoreSettings(Path(folder), os.urandom(KEY_BYTES)) if keeps else None
            line = _measure(replace(config, kv_store=store), checkpoint, runs)
        size = {"dialog_tokens": DIALOG_TOKENS, "kv_dir": keeps, "model": model, "quantize": config.quantize}
        yield {"engine": "guildllama", "workload": "C4", **line, **size, "threads": config.num_threads, **machine()}


def _measure(config: EngineConfig, checkpoint: Checkpoint, runs: int) -> dict[str, object]:
    first_token, cpu, starting, stopping, cached = [], [], [], [], 0
    _ask(config, checkpoint, 0)
    for run in range(runs):
        begun = time.perf_counter()
        engine = EngineCore.start(config, checkpoint)
        starting.append(time.perf_counter() - begun)
        sent, cpu_sent = time.perf_counter(), time.process_time()
        stream = engine.submit(_dialog(run), ONE_TOKEN)
        stream.result(120)
        first_token.append(time.perf_counter() - sent)
        cpu.append(time.process_time() - cpu_sent)
        cached = stream.usage.cached_tokens
        engine.close()
        stopping.append(_ask(config, checkpoint, run + 1))
    return {
        "ttft_s": round(statistics.median(first_token), 3),
        "least": round(min(first_token), 3),
        "most": round(max(first_token), 3),
        "cpu_s": round(statistics.median(cpu), 3),
        "cached_tokens": cached,
        "start_s": round(statistics.median(starting), 3),
        "stop_s": round(statistics.median(stopping), 3),
    }


def _ask(config: EngineConfig, checkpoint: Checkpoint, run: int) -> float:
    """An engine answers the dialog of a run for the first time, and stops; the seconds that stopping took."""
    engine = EngineCore.start(config, checkpoint)
    engine.submit(_dialog(run), ONE_TOKEN).result(120)
    begun = time.perf_counter()
    engine.close()
    return time.perf_counter() - begun


def _dialog(run: int) -> list[int]:
    return [(run * 131 + at * 13 + at * at * 7) % 30000 + 1000 for at in range(DIALOG_TOKENS)]
