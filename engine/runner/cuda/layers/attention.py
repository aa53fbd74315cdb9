"""A step's attention on a GPU: the layers' KV pages, and which kernel runs for which tokens.

It knows pages, slots and chunks, and no matrix product but the value projection of a single row.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.kernels.attention.attention_rules import LARGE_HEAD, padded_head
from engine.kernels.attention.chunk_attention import chunk_attention, rotate_and_store
from engine.kernels.attention.decode_attention import decode_attention
from engine.kernels.attention.fused_decode import fused_decode_value_proj
from engine.kernels.attention.kv_quantization import is_packed
from engine.kernels.attention.prefix_attention import prefix_attention
from engine.kernels.attention.prefix_work import MAX_PARTS, PrefixWork
from engine.kernels.attention.single_row import single_row_attention
from engine.kernels.attention.split_kv import MAX_SPLITS, SplitConfig, split_kv, work_list
from engine.kernels.attention.verify_attention import verify_attention
from engine.kernels.linear.gemv import DeferredValue
from engine.kernels.pdl import supported
from engine.layers.paged_attention import AttentionRule
from engine.layers.paged_kv import PagedKV
from engine.model.eight_bit_weight import EightBitWeight
from engine.model.transformer import Block, Transformer
from engine.runner.cuda.batch.input_batch import BatchShape, BatchState, StepInputs
from engine.runner.cuda.batch.prefix_limits import prefix_config, prefix_limits
from engine.runner.cuda.batch.query_blocks import SMALLEST_BLOCK, SPLIT_QUERIES, query_block
from engine.runner.cuda.batch.verify_limits import verify_config, verify_limits

_MANY_SLOTS = 16  # from this number on, attention of few heads reads large tiles
_MIN_PROGRAMS = 1024  # of decode attention, where there is work for that many
_LARGE_SHARED_BYTES = 160 << 10  # of a program, on cards for data centres


def _within_context(rule: AttentionRule, max_context: int) -> AttentionRule:
    """The rule without a window that covers every context."""
    return replace(rule, window=None) if rule.window is not None and rule.window >= max_context else rule


class CudaAttention:
    """Attention of all layers, for steps of up to `max_slots` slots. Call `use_pages` before the first step."""

    def __init__(self, config: EngineConfig, model: Transformer, block: Block, max_slots: int) -> None:
        self._gpu, self._pdl, self._eps = config.device.type == "cuda", supported(config.device), model.spec.norm_eps
        self.heads, self.kv_heads, self.head_dim = block.heads, block.kv_heads, block.head_dim
        # A tile of 64 positions is 64 KiB of keys and values in two stages.
        properties = torch.cuda.get_device_properties(config.device) if self._gpu else None
        self._takes_large_tiles = (
            config.dtype.itemsize == 2
            and getattr(properties, "shared_memory_per_block_optin", 0) >= _LARGE_SHARED_BYTES
        )

        def floats(*shape: int) -> Tensor:
            return torch.zeros(shape, device=config.device)

        max_splits = max_slots * self.heads * MAX_SPLITS
        padded_dim = padded_head(self.head_dim)
        self._partial_out, self._partial_stats = floats(max_splits, padded_dim), floats(max_splits, 2)
        sharing_slots = 0 if prefix_limits(config, model) is None else max_slots
        max_parts = sharing_slots * self.heads * MAX_PARTS
        self._prefix_out, self._prefix_stats = floats(max_parts, padded_dim), floats(max_parts, 2)
        group = self.heads // self.kv_heads
        self._prefix_config = prefix_config(group, self.head_dim, config.dtype, gpu=self._gpu)
        verify = verify_limits(config, model)
        self._verify_config = verify_config(group, self.head_dim, config.dtype, gpu=self._gpu)
        split_items = 0 if verify is None else verify.items * self.kv_heads
        verify_lanes = split_items * self._verify_config.lanes
        self._verify_out, self._verify_stats = floats(verify_lanes, padded_dim), floats(verify_lanes, 2)
        self._verify_counters = torch.zeros(split_items, dtype=torch.int32, device=config.device)
        self._chunk_out, self._chunk_stats = floats(SPLIT_QUERIES, padded_dim), floats(SPLIT_QUERIES, 2)
        self._chunk_counters = torch.zeros(SPLIT_QUERIES // SMALLEST_BLOCK, dtype=torch.int32, device=config.device)
        self._value_weight, self._partial_weight = floats(self.heads), floats(self.heads)
        self._counters = torch.zeros(max_slots * self.heads, dtype=torch.int32, device=config.device)
        self._rules = [_within_context(block.rule, config.max_context) for block in model.blocks]
        max_items = SplitConfig(target_splits=max(2 * max_slots, _MIN_PROGRAMS)).max_work_items(max_slots)
        # A work list for each window, None for layers without one.
        self._work = {rule.window: work_list(max_items, config.device) for rule in self._rules}
        tables = [model.rope_of(block) for block in model.blocks]
        rope = {id(table): torch.view_as_real(table) for table in tables}
        parts = {key: (table[..., 0].contiguous(), table[..., 1].contiguous()) for key, table in rope.items()}
        self._rope = [parts[id(table)] for table in tables]  # cos and sin of each layer
        self._kv: PagedKV | None = None

    def use_pages(self, kv: PagedKV | None) -> None:
        """The pages that all steps from now on read and write; None: there are none."""
        self._kv = kv

    @property
    def kv(self) -> PagedKV:
        """The pages. Raises RuntimeError before `use_pages`."""
        if self._kv is None:
            raise RuntimeError("no KV pages are allocated")
        return self._kv

    @property
    def stores_elements(self) -> bool:
        """Whether keys and values are stored element by element, without scales of vectors."""
        return self.kv.scales is None

    @property
    def num_qk_rows(self) -> int:
        """Rows of wqkv that project queries and keys; the rest projects values."""
        return (self.heads + self.kv_heads) * self.head_dim

    def split_contexts(self, shape: BatchShape, inputs: StepInputs, state: BatchState) -> None:
        """List the splits of the slots' contexts. Once a step, before the first layer's `attend`."""
        if self._uses_single_row_kernel(shape):
            return
        config = self._split_config(shape)
        for window, work in self._work.items():
            prefixes = inputs.prefix_slots if shape.shares_prefixes and window is None else None
            split_kv(
                inputs.slot_rows, state.positions, work, config=config, window=window, prefixes=prefixes, pdl=self._pdl
            )

    def attend(
        self, layer: int, shape: BatchShape, inputs: StepInputs, state: BatchState, qkv: Tensor, out: Tensor
    ) -> None:
        """out [tokens, heads · head_dim] = one layer's attention, from qkv before RoPE. qkv is overwritten.

        The keys and values of all the step's tokens are stored before any chunk reads: a chunk may continue on a page
        that another chunk of the step writes.
        """
        kv, rule = self.kv, self._rules[layer]
        k, v, scales = kv.k[layer], kv.v[layer], kv.layer_scales[layer]
        cos, sin = self._rope[layer]
        if shape.num_prefill_tokens:
            rotate_and_store(
                qkv[shape.num_slots :], k, v, inputs.chunk_rows, inputs.chunk_positions, state.page_tables, cos, sin,
                heads=self.heads, scales=scales, pdl=self._pdl,
            )  # fmt: skip
        if self._uses_single_row_kernel(shape):
            single_row_attention(
                qkv, k, v, inputs.slot_rows, state.positions, state.page_tables, cos, sin, out, self._partial_out,
                self._partial_stats, self._counters, heads=self.heads, config=self._single_row_config(), scales=scales,
                rule=rule, pdl=self._pdl,
            )  # fmt: skip
        elif shape.num_slots:
            prefix = self._prefix_work(inputs) if shape.shares_prefixes and rule.window is None else None
            if prefix is not None:
                prefix_attention(
                    qkv, k, v, prefix, inputs.slot_rows, state.positions, state.page_tables, cos, sin,
                    heads=self.heads, config=self._prefix_config, scales=scales, rule=rule, pdl=self._pdl,
                )  # fmt: skip
            decode_attention(
                qkv, k, v, self._work[rule.window], inputs.slot_rows, state.positions, state.page_tables, cos, sin, out,
                self._partial_out, self._partial_stats, self._counters, heads=self.heads,
                config=self._split_config(shape), scales=scales, rule=rule, prefix=prefix, pdl=self._pdl,
            )  # fmt: skip
        if inputs.verify is not None:
            verify_attention(
                qkv, k, v, inputs.verify.items, state.positions, state.page_tables, out, self._verify_out,
                self._verify_stats, self._verify_counters, heads=self.heads, config=self._verify_config, scales=scales,
                rule=rule, pdl=self._pdl,
            )  # fmt: skip
        elif shape.num_prefill_tokens:
            block = query_block(shape, gpu=self._gpu, head_dim=self.head_dim)
            tile = 32 if self.head_dim > LARGE_HEAD else 64
            chunk_attention(
                qkv, k, v, inputs.query_blocks, state.page_tables, out, self._chunk_out, self._chunk_stats,
                self._chunk_counters, heads=self.heads, block=block, tile=tile if self._gpu else 16, warps=block // 16,
                scales=scales, rule=rule, pdl=self._pdl,
            )  # fmt: skip

    def attend_and_project_value(
        self,
        layer: int,
        inputs: StepInputs,
        state: BatchState,
        h: Tensor,
        gain: Tensor,
        weight: Tensor | EightBitWeight,
        qkv: Tensor,
        out: Tensor,
    ) -> DeferredValue:
        """Attention of a step of one slot, and its value projection by the last rows of wqkv's `weight`, in one kernel.

        Reads query and key from qkv and writes norm(h)'s value into it. The attention is `out` plus the returned term.
        """
        cos, sin = self._rope[layer]
        fused_decode_value_proj(
            qkv, h, gain, weight, self.kv.k[layer], self.kv.v[layer], inputs.slot_rows, state.positions,
            state.page_tables, cos, sin, out, self._value_weight, self._partial_out, self._partial_stats,
            self._partial_weight, self._counters, heads=self.heads, eps=self._eps,
            config=self._single_row_config(),
            block=2048 if isinstance(weight, EightBitWeight) else 1024, first_row=self.num_qk_rows,
            rule=self._rules[layer], pdl=self._pdl,
        )  # fmt: skip
        return DeferredValue(self._value_weight, qkv[:, self.num_qk_rows :], self.heads // self.kv_heads, self.head_dim)

    def _prefix_work(self, inputs: StepInputs) -> PrefixWork:
        return PrefixWork(
            inputs.prefix_slots, inputs.prefix_members, inputs.prefix_items, self._prefix_out, self._prefix_stats
        )

    def _uses_single_row_kernel(self, shape: BatchShape) -> bool:
        """Whether a kernel that needs no list of splits attends: one slot, and no other token in the step.

        Not with grouped queries and an int8 cache: there each query head would convert the same elements again.
        """
        return shape.num_slots == shape.num_tokens == 1 and (self.stores_elements or self.heads == self.kv_heads)

    def _single_row_config(self) -> SplitConfig:
        """Configuration of the kernels for one slot. Early tiles take registers: only where an H200 was measured."""
        if not self._takes_large_tiles or is_packed(self.kv.k[0]) or self.head_dim > LARGE_HEAD:
            return self._split_config(BatchShape(1, 0))
        if self.heads <= 8 or self.kv_heads <= 2:
            return SplitConfig(target_splits=MAX_SPLITS, tile_tokens=32, min_tiles=2, early_tiles=2)
        if self.heads <= 16:
            return SplitConfig(target_splits=MAX_SPLITS, tile_tokens=16, stages=3, min_tiles=4, early_tiles=4)
        return SplitConfig(target_splits=MAX_SPLITS, tile_tokens=16, warps=2, stages=3, min_tiles=4, early_tiles=2)

    def _split_config(self, shape: BatchShape) -> SplitConfig:
        """Enough splits to fill the GPU, or unsplit contexts if those do; measured on an H100 and an H200."""
        slots, kv_heads = shape.num_slots, self.kv_heads
        if not self._gpu:
            return SplitConfig(target_splits=2 * slots, tile_tokens=16, min_tiles=2)
        if shape.num_tokens == 1:
            return SplitConfig(target_splits=MAX_SPLITS, tile_tokens=16, stages=3, min_tiles=4)
        packed = is_packed(self.kv.k[0])
        if self.heads != kv_heads:
            splits = max(slots, -(-_MIN_PROGRAMS // 2 // kv_heads))
            if self.head_dim > LARGE_HEAD or not (packed or self._takes_large_tiles):
                return SplitConfig(target_splits=splits, min_tiles=4)
            if packed:
                return SplitConfig(target_splits=splits, tile_tokens=64, warps=2, stages=3, min_tiles=2)
            return SplitConfig(target_splits=splits, tile_tokens=64, min_tiles=2)
        if slots * kv_heads < _MIN_PROGRAMS // 2:
            if slots >= _MANY_SLOTS and self._takes_large_tiles and not packed and self.head_dim <= LARGE_HEAD:
                splits = -(-_MIN_PROGRAMS // 2 // kv_heads)
                return SplitConfig(target_splits=splits, tile_tokens=64, warps=2, lanes=16)
            return SplitConfig(target_splits=-(-_MIN_PROGRAMS // 2 // kv_heads), tile_tokens=16, warps=2, stages=3)
        splits = max(slots, -(-_MIN_PROGRAMS // kv_heads))
        if packed and self.head_dim <= LARGE_HEAD:
            return SplitConfig(target_splits=splits, tile_tokens=64, warps=2, stages=3, lanes=16)
        if self._takes_large_tiles and self.head_dim <= LARGE_HEAD:
            return SplitConfig(target_splits=splits, tile_tokens=64, warps=2, lanes=16)
        return SplitConfig(target_splits=splits, tile_tokens=16, warps=2, stages=4, lanes=16)
