"""Reads a model's weights on a thread while the runner records steps, which need only the weights' addresses.

It knows when the weights are read. What they are is the loader's.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.load_progress import LoadProgress
from engine.model.loader import allocate_model, fill_model


class BackgroundLoading:
    """`model` has all its memory at once, with zeros until the weights are read. They are not quantized."""

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint, progress: LoadProgress | None = None) -> None:
        self.model = allocate_model(config, checkpoint.spec)
        if config.device.type == "cuda":
            torch.cuda.synchronize(config.device)  # the zeros are written before the weights
        self._cancelled = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._read = self._thread.submit(
            fill_model, self.model, config, checkpoint, progress=progress, cancelled=self._cancelled
        )

    def wait(self) -> None:
        """Until the weights are read; ConfigError if they cannot be, or are not finite."""
        self._read.result()

    def close(self) -> None:
        """End the thread. If it still reads, as after a failure elsewhere, it stops after the present layer."""
        self._cancelled.set()
        self._thread.shutdown()
