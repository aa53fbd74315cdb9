"""The CPU runner that computes the forward pass in compiled C++; rows and sampling are those of `TorchRunner`."""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from engine.config import EngineConfig
from engine.layers.paged_attention import Segment
from engine.model.transformer import Transformer
from engine.runner.cpu.forward import NativeForward
from engine.runner.cpu.huge_pages import advise
from engine.runner.torch_runner import TorchRunner


class NativeRunner(TorchRunner):
    """A `Runner` for a model that `NativeForward.supports`."""

    draft_cost = 0.22  # see docs/performance-cpu.md
    _attends_drafts_alone = False  # a query's result does not depend on the queries beside it

    def __init__(
        self,
        library: ctypes.CDLL,
        config: EngineConfig,
        model: Transformer,
        num_kv_pages: int,
        num_host_slots: int = 0,
    ) -> None:
        super().__init__(config, model, num_kv_pages, num_host_slots)
        self.drafts_by_default = True
        advise(self.kv.pages)
        self._forward: NativeForward | None = NativeForward(library, model, self.kv, config.num_threads)

    def _logits(
        self, token_ids: Tensor, positions: Tensor, segments: Sequence[Segment], sources: Sequence[int]
    ) -> Tensor | None:
        if self._forward is None:
            raise RuntimeError("the runner is closed")
        logits = self._forward.logits(token_ids, segments, sources)
        return logits if sources else None

    def close(self) -> None:
        """Free the KV pages. A later step raises RuntimeError: the compiled code would write to freed memory."""
        self._forward = None  # first: it holds pointers into the pages
        super().close()
