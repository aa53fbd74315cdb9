"""What every rank does before the first order: threads, device, weights, pages, the longest step once.

Ranks either all get through or all stop: the one that finds a mistake says what it is, and the others say that there
was one. It knows the order of these things, and nothing of serving.
"""

import gc
from dataclasses import dataclass
from functools import partial

import torch

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.distributed.communicator import Communicator
from engine.errors import ConfigError
from engine.model.loader import load_model
from engine.model.quantization import quantize_block
from engine.model.transformer import Transformer
from engine.runner.base import AnyRunner
from engine.runner.cpu.build import compiled_library
from engine.runner.cpu.quantize import CpuQuantizer
from engine.runner.factory import make_runner, warm_up


class OtherRankFailed(ConfigError):
    """This rank could have started; the one that could not has said why."""

    def __init__(self) -> None:
        super().__init__("the model", expected="every rank to load its share", found="another rank could not")


@dataclass(frozen=True, slots=True)
class Worker:
    model: Transformer
    runner: AnyRunner
    slowest_step: float  # seconds that the longest possible step took


def start_worker(config: EngineConfig, checkpoint: Checkpoint, communicator: Communicator) -> Worker:
    """Load and warm up, in lockstep with the other ranks. ConfigError on all of them if one cannot."""

    def agree(value: int) -> int:
        least = communicator.all_reduce_min(value)
        if least <= 0:
            raise OtherRankFailed
        return least

    torch.set_num_threads(config.num_threads)
    if config.device.type == "cuda":
        torch.cuda.set_device(config.device)
    try:
        model = load_weights(config, checkpoint)
        agree(1)
        runner = make_runner(config, model, agree)
        agree(1)
    except OtherRankFailed:
        raise
    except ConfigError:
        communicator.all_reduce_min(0)
        raise
    return Worker(model, runner, warm_up(runner, config))


def freeze_gc() -> None:
    """The model's objects are here to stay: no later collection has to walk them, which takes 0.1 to 0.2 s each time.
    For processes that are ours alone."""
    gc.collect()
    gc.freeze()


def load_weights(config: EngineConfig, checkpoint: Checkpoint) -> Transformer:
    """The model, its matrices packed as the device wants them."""
    if config.quantize == "none":
        return load_model(config, checkpoint)
    if config.device.type == "cpu":
        packer = CpuQuantizer(config.quantize, compiled_library() if config.native else None)
        model = load_model(config, checkpoint, packer.block)
        packer.output(model)
        return model
    return load_model(config, checkpoint, partial(quantize_block, bits=4 if config.quantize == "int4" else 8))
