"""The runner on a CPU with compiled code: rows and sampling as in plain torch, all else one call a step."""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from engine.config import EngineConfig
from engine.layers.paged_attention import Segment
from engine.model.transformer import Transformer
from engine.runner.cpu.forward import NativeForward
from engine.runner.torch_runner import TorchRunner


class NativeRunner(TorchRunner):
    def __init__(self, library: ctypes.CDLL, config: EngineConfig, model: Transformer, num_kv_pages: int) -> None:
        super().__init__(config, model, num_kv_pages)
        self._step: NativeForward | None = NativeForward(library, model, self._kv, config.num_threads)

    def _logits(
        self, tokens: Tensor, positions: Tensor, segments: Sequence[Segment], last: Sequence[int]
    ) -> Tensor | None:
        if self._step is None:
            raise RuntimeError("the runner is closed")
        logits = self._step.logits(tokens, segments, last)
        return logits if last else None

    def close(self) -> None:
        self._step = None  # it points into the pages that go now
        super().close()
