"""Chooses the runner for a device, and warms it up.

It knows every runner and how many KV pages fit. It knows neither the scheduler nor the other ranks: `min_over_ranks`
stands for them.
"""

import time
from collections.abc import Callable
from typing import Final

import torch

from engine.config import EngineConfig
from engine.load_progress import PREPARING, LoadProgress
from engine.logits_params import Adjustment, LogitsParams
from engine.model.transformer import Transformer
from engine.runner.base import AnyRunner
from engine.runner.cpu.build import compiled_library
from engine.runner.cpu.forward import NativeForward
from engine.runner.cpu.native_runner import NativeRunner
from engine.runner.memory import available_bytes, fit_host_slots, fit_pages, kv_bytes_per_page
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan

DECODED_TOKENS: Final = 8  # to find out how long a step takes


def make_runner(
    config: EngineConfig,
    model: Transformer,
    min_over_ranks: Callable[[int], int] = int,
    progress: LoadProgress | None = None,
    wait_for_weights: Callable[[], None] = lambda: None,
) -> AnyRunner:
    """The runner for this device, with its KV pages and host tier allocated.

    `min_over_ranks` returns the smallest of all ranks' numbers, which are above 0: every rank must have the same number
    of pages. The model's weights may still be read, until `wait_for_weights` returns. Raises ConfigError when too few
    pages fit, or the host tier does not, and what `wait_for_weights` raises.
    """
    progress = progress or LoadProgress()
    progress.begin(PREPARING)
    page_bytes = kv_bytes_per_page(model.spec, config)
    num_slots = min_over_ranks(fit_host_slots(config, page_bytes, available_bytes(torch.device("cpu"))) + 1) - 1
    if config.device.type == "cuda":
        from engine.runner.cuda.cuda_runner import CudaRunner  # needs Triton, which machines without a GPU may lack

        runner = CudaRunner(config, model)  # before the free memory is measured: it allocates its buffers
        num_pages = min_over_ranks(fit_pages(config, page_bytes, available_bytes(config.device)))
        runner.start(num_pages, num_slots, progress, wait_for_weights)
        return runner
    wait_for_weights()
    num_pages = min_over_ranks(fit_pages(config, page_bytes, available_bytes(config.device)))
    if config.native and NativeForward.supports(model, config) and (library := compiled_library()) is not None:
        return NativeRunner(library, config, model, num_pages, num_slots)
    return TorchRunner(config, model, num_pages, num_slots)


def decode_seconds(runner: AnyRunner) -> float:
    """Seconds of a step that decodes one row with a short context. No row may be in use, and none is afterwards."""
    runner.wait(
        runner.execute_async(
            StepPlan(0, (NewSequence(0, 0.0, 1.0, 1),), ((0, 0, 0),), (PrefillChunk(0, 0, (0,), True),))
        )
    )
    times = []
    for _ in range(DECODED_TOKENS):
        started = time.perf_counter()
        runner.wait(runner.execute_async(StepPlan(1, decode_rows=(0,))))
        times.append(time.perf_counter() - started)
    runner.wait(runner.execute_async(StepPlan(2, freed_rows=(0,))))
    return min(times)


def warm_up(runner: AnyRunner, config: EngineConfig) -> float:
    """Run the longest step that a plan can ask for, so that a lack of memory shows at start-up, not on a request.

    Every rank calls it before rank 0 sends its first plan. Returns the seconds it took. No row is in use afterwards.
    """
    started = time.perf_counter()
    length = min(config.max_prefill_tokens, config.max_context - 1)
    start = config.max_context - 1 - length
    # Its adjusted logits and log-probabilities also run what no recorded step contains.
    params = LogitsParams(repetition_penalty=1.1, logit_bias=((0, 1.0),), min_p=0.1, top_k=2)
    sequence = NewSequence(0, 1.0, 0.5, 1, True, Adjustment(params, (0,), 1), num_logprobs=1)
    page_grants = tuple((0, index, index) for index in range(config.max_pages_per_seq))
    chunk = PrefillChunk(0, start, (0,) * length, True)
    runner.wait(runner.execute_async(StepPlan(0, (sequence,), page_grants, (chunk,))))
    runner.wait(runner.execute_async(StepPlan(1, decode_rows=(0,))))
    runner.wait(runner.execute_async(StepPlan(2, freed_rows=(0,))))
    return time.perf_counter() - started
