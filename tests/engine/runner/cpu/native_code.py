"""The compiled code for the tests that need it. They are skipped on a machine that cannot have it."""

import ctypes

import pytest
import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.layers.paged_attention import Segment
from engine.layers.paged_kv import PagedKV
from engine.model.transformer import Transformer
from engine.runner.cpu.build import compiled_library, missing_requirement
from engine.runner.cpu.forward import NativeForward

PAGES = 40


def require_compiled_library() -> ctypes.CDLL:
    library = compiled_library()
    if library is None:
        reason = missing_requirement()
        assert reason is not None, "the machine has everything, and there is no library"
        pytest.skip(reason)
    return library


class NativeModel:
    """A model and its pages, filled with NaN so that reading what was never written shows."""

    def __init__(self, config: EngineConfig, model: Transformer, threads: int = 1) -> None:
        spec = model.spec
        kv = PagedKV(
            spec.n_layers, PAGES, config.page_size, model.kv_heads, spec.head_dim, torch.float32, torch.device("cpu")
        )
        for pages in (*kv.k, *kv.v):
            pages.fill_(torch.nan)
        self._forward = NativeForward(require_compiled_library(), model, kv, threads)

    def __call__(self, ids: list[int], *segments: Segment) -> Tensor:
        """The logits of all tokens."""
        with torch.inference_mode():
            return self._forward.logits(torch.tensor(ids), segments, range(len(ids)))


def page_ids(first: int) -> list[int]:
    """Scattered page ids, different for each row."""
    return [(first + 7 * number) % PAGES for number in range(5)]
