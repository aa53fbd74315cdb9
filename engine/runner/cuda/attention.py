"""A step's attention: the layers' pages of keys and values, and which kernel looks at them for which tokens.

It knows pages, slots and chunks, and no products but the one that makes a lone row's value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.kernels.chunk_attention import chunk_attention, rotate_and_store
from engine.kernels.decode_attention import decode_attention
from engine.kernels.fused_decode import fused_decode_value_proj
from engine.kernels.gemv import DeferredValue
from engine.kernels.kv_quantization import allocate_scales
from engine.kernels.pdl import supported
from engine.kernels.split_kv import MAX_SPLITS, SplitConfig, split_kv, work_list
from engine.model.transformer import Block, Transformer
from engine.runner.cuda.input_batch import BatchShape, BatchState, StepInputs

_PROGRAMS = 1024  # of the decode attention, at least, where there is work for so many


def query_block(size: BatchShape, *, gpu: bool) -> int:
    """Prompt tokens that one program of the chunk attention takes.

    A step is recorded with as many programs as its chunks could ever need, and most of them find nothing to do. Large
    blocks are the quicker ones, but so large that one at a time fits a multiprocessor: for few tokens the idle ones
    would cost more than the work.
    """
    if gpu:
        return 64 if size.num_prefill_tokens <= 128 else 128
    return 16 if size.num_prefill_tokens <= 16 else 32


class Attention:
    """`samples`: the most rows of a step. Pages come with `take_pages`."""

    def __init__(self, config: EngineConfig, model: Transformer, block: Block, samples: int) -> None:
        self._gpu, self._pdl, self._eps = config.device.type == "cuda", supported(config.device), model.spec.norm_eps
        self.heads, self.kv_heads, self.head_dim = block.heads, block.kv_heads, block.head_dim
        self._layers, self._device, self._dtype = model.spec.n_layers, config.device, config.dtype

        def floats(*shape: int) -> Tensor:
            return torch.zeros(shape, device=config.device)

        parts = samples * self.heads * MAX_SPLITS
        self._part_out, self._part_stat = floats(parts, self.head_dim), floats(parts, 2)
        self._share, self._part_own = floats(self.heads), floats(self.heads)
        self._counters = torch.zeros(samples * self.heads, dtype=torch.int32, device=config.device)
        self._work = work_list(
            SplitConfig(target_splits=max(2 * samples, _PROGRAMS)).max_work_items(samples), config.device
        )
        rope = torch.view_as_real(model.rope)
        self._cos, self._sin = rope[..., 0].contiguous(), rope[..., 1].contiguous()
        self.free_pages()

    def allocate_pages(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        """Storage for keys and values of all layers."""
        for _ in range(self._layers):
            self._k.append(torch.empty(shape, dtype=dtype, device=self._device))
            self._v.append(torch.empty(shape, dtype=dtype, device=self._device))
            self._scales.append(allocate_scales(self._k[-1]))

    def free_pages(self) -> None:
        self._k: list[Tensor] = []
        self._v: list[Tensor] = []
        self._scales: list[Tensor | None] = []  # of the layers' keys and values, if those are int8

    @property
    def is_unquantized(self) -> bool:
        """Whether keys and values are kept as they are computed."""
        return self._k[0].dtype == self._dtype

    @property
    def num_qk_rows(self) -> int:
        """Rows of wqkv that make queries and keys; the values' are the rest."""
        return (self.heads + self.kv_heads) * self.head_dim

    def split_contexts(self, size: BatchShape, inputs: StepInputs, rows: BatchState) -> None:
        """Once a step, before any layer's `attend`."""
        split_kv(inputs.slot_rows, rows.positions, self._work, config=self._split_config(size), pdl=self._pdl)

    def attend(
        self, layer: int, size: BatchShape, inputs: StepInputs, rows: BatchState, qkv: Tensor, out: Tensor
    ) -> None:
        """All keys and values of the step's tokens are written before a chunk reads any."""
        k, v, scales = self._k[layer], self._v[layer], self._scales[layer]
        if size.num_prefill_tokens:
            rotate_and_store(
                qkv[size.num_slots :], k, v, inputs.chunk_rows, inputs.chunk_positions, rows.page_tables, self._cos,
                self._sin, heads=self.heads, scales=scales, pdl=self._pdl,
            )  # fmt: skip
        if size.num_slots:
            decode_attention(
                qkv, k, v, self._work, inputs.slot_rows, rows.positions, rows.page_tables, self._cos, self._sin, out,
                self._part_out, self._part_stat, self._counters, heads=self.heads, config=self._split_config(size),
                scales=scales, pdl=self._pdl,
            )  # fmt: skip
        if size.num_prefill_tokens:
            block = query_block(size, gpu=self._gpu)
            chunk_attention(
                qkv, k, v, inputs.blocks, rows.page_tables, out, heads=self.heads, block=block,
                tile=64 if self._gpu else 16, warps=block // 16, scales=scales, pdl=self._pdl,
            )  # fmt: skip

    def attend_and_project_value(
        self,
        layer: int,
        inputs: StepInputs,
        rows: BatchState,
        h: Tensor,
        gain: Tensor,
        weight: Tensor,
        qkv: Tensor,
        out: Tensor,
    ) -> DeferredValue:
        """One row, whose query and key are in qkv, and whose value weight · norm(h) is made here: `out` is what it
        attends to but for its own part, and both together what the next product reads."""
        fused_decode_value_proj(
            qkv, h, gain, weight, self._k[layer], self._v[layer], inputs.slot_rows, rows.positions, rows.page_tables,
            self._cos, self._sin, out, self._share, self._part_out, self._part_stat, self._part_own, self._counters,
            heads=self.heads, eps=self._eps, config=self._split_config(BatchShape(1, 0)), block=1024, pdl=self._pdl,
        )  # fmt: skip
        return DeferredValue(self._share, qkv[:, self.num_qk_rows :], self.heads // self.kv_heads, self.head_dim)

    def _split_config(self, size: BatchShape) -> SplitConfig:
        """Parts of the contexts and tile sizes: enough programs to fill the GPU, and whole contexts if that does."""
        slots, kv_heads = size.num_slots, self.kv_heads
        if not self._gpu:
            return SplitConfig(target_splits=2 * slots, tile_tokens=16, min_tiles=2)
        if size.num_tokens == 1:
            return SplitConfig(target_splits=MAX_SPLITS, tile_tokens=16, stages=3, min_tiles=4)
        if self.heads != kv_heads:
            return SplitConfig(target_splits=max(slots, -(-_PROGRAMS // 2 // kv_heads)), min_tiles=4)
        if slots * kv_heads < _PROGRAMS // 2:
            return SplitConfig(target_splits=-(-_PROGRAMS // 2 // kv_heads), tile_tokens=16, warps=2, stages=3)
        return SplitConfig(
            target_splits=max(slots, -(-_PROGRAMS // kv_heads)), tile_tokens=16, warps=2, stages=4, lanes=16
        )
