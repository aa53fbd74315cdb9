"""What every rank does before the first step: set up threads and device, load weights, allocate pages, warm up.

Either all ranks start or all stop: a rank that finds a mistake reports it, and the others report that one rank failed.
It knows the order of these steps. It does not know requests or commands.
"""

import gc
from dataclasses import dataclass
from functools import partial

import torch

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.distributed.communicator import Communicator
from engine.errors import ConfigError
from engine.load_progress import LoadProgress
from engine.model.loader import fill_rope, load_model
from engine.model.quantization import has_wider_matrices, quantize_block
from engine.model.transformer import Transformer
from engine.runner.base import AnyRunner
from engine.runner.cpu.build import compiled_library
from engine.runner.cpu.quantize import CpuQuantizer
from engine.runner.factory import make_runner, warm_up
from engine.runner.memory import available_bytes, fit_limits, kv_bytes_per_page
from engine.scheduler.scheduler import Scheduler


class OtherRankFailed(ConfigError):
    """This rank could have started, but another one could not. That one reports the reason."""

    def __init__(self) -> None:
        super().__init__("the model", expected="every rank to load its shard", found="another rank could not")


@dataclass(frozen=True, slots=True)
class Worker:
    """A rank that is ready for its first step, and the configuration with the limits that its memory allows."""

    config: EngineConfig
    model: Transformer
    runner: AnyRunner
    slowest_step: float  # seconds that the longest possible step took at warm-up


def start_worker(
    config: EngineConfig, checkpoint: Checkpoint, communicator: Communicator, progress: LoadProgress | None = None
) -> Worker:
    """Load and warm up together with the other ranks. Raises ConfigError on all ranks if any rank cannot start."""

    def agree(value: int) -> int:
        """The minimum of all ranks' values; 0 from any rank stops them all."""
        smallest = communicator.all_reduce_min(value)
        if smallest <= 0:
            raise OtherRankFailed
        return smallest

    torch.set_num_threads(config.num_threads)
    if config.device.type == "cuda":
        torch.cuda.set_device(config.device)
    try:
        model = load_weights(config, checkpoint, progress)
        agree(1)
        fitted = fit_limits(config, model.spec, available_bytes(config.device), agree)
        if fitted.max_context != config.max_context:
            fill_rope(model, fitted.max_context, fitted.device)
        config = fitted
        runner = make_runner(config, model, agree, progress)
        agree(1)
    except OtherRankFailed:
        raise
    except ConfigError:
        communicator.all_reduce_min(0)
        raise
    return Worker(config, model, runner, warm_up(runner, config))


def scheduler_from_config(config: EngineConfig, worker: Worker) -> Scheduler:
    """The scheduler that goes with a config, and with the pages and slots that the worker's runner has."""
    runner, speculate = worker.runner, config.speculate
    drafts = speculate == "ngram" or (speculate == "auto" and runner.drafts_are_exact)
    return Scheduler(
        max_num_seqs=config.max_num_seqs,
        num_pages=worker.runner.num_kv_pages,
        max_prefill_tokens=config.max_prefill_tokens,
        burst_prefill_tokens=config.burst_prefill_tokens,
        counts_rows=config.counts_rows,
        max_context=config.max_context,
        page_size=config.page_size,
        max_host_slots=worker.runner.num_host_slots,
        page_bytes=kv_bytes_per_page(worker.model.spec, config),
        max_draft_tokens=runner.max_draft_tokens if drafts else 0,
        draft_cost=runner.draft_cost,
    )


def freeze_gc() -> None:
    """Exclude the objects that exist now from garbage collection: walking them takes 0.1 to 0.2 s each time.

    Only for a process of the engine's own, since it affects the whole process.
    """
    gc.collect()
    gc.freeze()


def load_weights(config: EngineConfig, checkpoint: Checkpoint, progress: LoadProgress | None = None) -> Transformer:
    """This rank's shard of the model, quantized as `config.quantize` says in the layout of the device."""
    if config.quantize == "none":
        return load_model(config, checkpoint, progress=progress)
    if config.device.type == "cpu":
        quantizer = CpuQuantizer(config.quantize, compiled_library() if config.native else None)
        model = load_model(config, checkpoint, quantizer.block, progress)
        quantizer.output(model)
        return model
    bits = 4 if config.quantize == "int4" else 8
    stored = checkpoint.spec.quantization
    quantize = partial(quantize_block, bits=bits, fp8=config.quantize == "fp8", mixed=has_wider_matrices(stored))
    exact = bits == 4 and stored is not None
    return load_model(config, checkpoint, quantize, progress, exact=exact)
