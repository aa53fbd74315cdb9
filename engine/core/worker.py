"""What every rank does before the first step: set up threads and device, load weights, allocate pages, warm up.

Either all ranks start or all stop: a rank that finds a mistake reports it, and the others report that one rank failed.
It knows the order of these steps. It does not know requests or commands.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig, default_dtype, default_quantize
from engine.core.draft_model import RunnerDraftModel
from engine.core.draft_vocabulary import open_draft_model
from engine.distributed.communicator import Communicator
from engine.errors import ConfigError
from engine.load_progress import LoadProgress
from engine.model.background_loading import BackgroundLoading
from engine.model.loader import fill_rope, load_model
from engine.model.quantization import has_wider_matrices, quantize_block
from engine.model.transformer import Transformer
from engine.runner.base import AnyRunner
from engine.runner.cpu.build import compiled_library
from engine.runner.cpu.quantize import CpuQuantizer
from engine.runner.factory import decode_seconds, make_runner, warm_up
from engine.runner.memory import available_bytes, fit_limits, kv_bytes_per_page
from engine.scheduler.drafts.limits import NO_DRAFTS
from engine.scheduler.scheduler import Scheduler


class OtherRankFailed(ConfigError):
    """This rank could have started, but another one could not. That one reports the reason."""

    def __init__(self) -> None:
        super().__init__("the model", expected="every rank to load its shard", found="another rank could not")


DRAFT_MEMORY_SHARE: Final = 1 / 8  # of the memory beside all weights, for the KV pages of a draft model
MIN_DRAFT_COST: Final = 0.02  # of a step of the draft model; the host takes some time for it too


@dataclass(frozen=True, slots=True)
class Worker:
    """A rank that is ready for its first step, and the configuration with the limits that its memory allows."""

    config: EngineConfig
    model: Transformer
    runner: AnyRunner
    slowest_step: float  # seconds that the longest possible step took at warm-up
    draft_model: RunnerDraftModel | None = None
    draft_model_cost: float = 1.0  # of one of its steps, in steps of the other model


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
    loading: BackgroundLoading | None = None
    try:
        # Not on several ranks: that has not been run on several GPUs yet.
        if config.device.type == "cuda" and config.quantize == "none" and config.world_size == 1:
            loading = BackgroundLoading(config, checkpoint, progress)
            model = loading.model
        else:
            model = load_weights(config, checkpoint, progress)
        agree(1)
        draft = None if config.draft_model is None else _load_draft_model(config, config.draft_model)
        free = available_bytes(config.device)
        draft_bytes = 0 if draft is None else int(free * DRAFT_MEMORY_SHARE)
        fitted = fit_limits(config, model.spec, free - draft_bytes, agree)
        if fitted.max_context != config.max_context:
            fill_rope(model, fitted.max_context, fitted.device)
        config = fitted
        draft_runner = None if draft is None else _draft_runner(*draft, config, draft_bytes)
        runner = make_runner(config, model, agree, progress, (lambda: None) if loading is None else loading.wait)
        agree(1)
    except OtherRankFailed:
        raise
    except ConfigError:
        communicator.all_reduce_min(0)
        raise
    finally:
        if loading is not None:
            loading.close()
    slowest = warm_up(runner, config)
    if draft is None or draft_runner is None:
        return Worker(config, model, runner, slowest)
    drafting = RunnerDraftModel(draft_runner, _draft_config(draft[0], config), model.spec.vocab_size)
    cost = decode_seconds(draft_runner) / decode_seconds(runner)
    return Worker(config, model, runner, slowest, drafting, max(MIN_DRAFT_COST, cost))


def scheduler_from_config(config: EngineConfig, worker: Worker) -> Scheduler:
    """The scheduler that goes with a config, and with the pages and slots that the worker's runner has."""
    runner, speculate = worker.runner, config.speculate
    drafts = speculate in ("ngram", "model") or (speculate == "auto" and runner.drafts_by_default)
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
        draft_limits=runner.draft_limits if drafts else NO_DRAFTS,
        draft_model=worker.draft_model,
        draft_model_cost=worker.draft_model_cost,
    )


def _load_draft_model(config: EngineConfig, path: Path) -> tuple[EngineConfig, Transformer]:
    """The draft model's weights, in the bits of its own file, and the configuration that they were loaded with."""
    checkpoint = open_draft_model(path)
    try:
        spec, on_gpu = checkpoint.spec, config.device.type == "cuda"
        draft_config = replace(
            config,
            dtype=default_dtype(spec, on_gpu=on_gpu),
            quantize=default_quantize(spec, on_gpu=on_gpu),
            max_context=min(config.max_context, spec.max_context),
            speculate="off",
            draft_model=None,
            kv_dtype="auto",
            kv_store=None,
            num_host_slots=0,
        )
        return draft_config, load_weights(draft_config, checkpoint)
    finally:
        checkpoint.close()


def _draft_config(draft_config: EngineConfig, config: EngineConfig) -> EngineConfig:
    """With the limits of the other model, once they are known."""
    context = min(draft_config.max_context, config.max_context)
    return replace(draft_config, max_num_seqs=config.max_num_seqs, max_context=context)


def _draft_runner(loaded: EngineConfig, model: Transformer, config: EngineConfig, num_bytes: int) -> AnyRunner:
    """Its runner, with pages in about `num_bytes`: at least for one context, at most for one of each row."""
    draft_config = _draft_config(loaded, config)
    if draft_config.max_context != loaded.max_context:
        fill_rope(model, draft_config.max_context, draft_config.device)
    pages = num_bytes // kv_bytes_per_page(model.spec, draft_config)
    most = draft_config.max_num_seqs * draft_config.max_pages_per_seq
    pages = max(draft_config.max_pages_per_seq, min(pages, most))
    try:
        runner = make_runner(replace(draft_config, num_kv_pages=pages), model)
    except ConfigError as error:
        expected = f"ngram, off, or a draft model for which {pages * draft_config.page_size} tokens fit into memory"
        raise ConfigError("--speculate", expected=expected, found=error.found) from error
    warm_up(runner, draft_config)
    return runner


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
