"""Decode attention of a rank's heads, with the products around it: buffers, times in a CUDA graph, compilation.

It knows kernels and one GPU. attention_sweep.py chooses the configurations.
"""

from __future__ import annotations

import rank_products
import torch
from attention_configs import Candidate, Share
from graph_timing import microseconds
from rank_products import DEVICE, DTYPE, GPU, CompileOnly, Product
from rank_tilings import Cell, Tiling
from rank_tilings import present as present_tiling
from torch import Tensor

from engine.config import PAGE_SIZE
from engine.kernels.attention import decode_attention as decode_module
from engine.kernels.attention import fused_decode as fused_module
from engine.kernels.attention import single_row as single_row_module
from engine.kernels.attention import split_kv as split_module
from engine.kernels.attention.decode_attention import decode_attention
from engine.kernels.attention.fused_decode import fused_decode_value_proj
from engine.kernels.attention.single_row import single_row_attention
from engine.kernels.attention.split_kv import MAX_SPLITS, SplitConfig, split_kv, work_list
from engine.kernels.linear.matmul import PLAIN
from engine.kernels.pdl import supported
from engine.layers.paged_kv import PagedKV

COLD_BYTES = 256 << 20  # of all layers; an H200's L2 cache has 60 MB
MAX_CONTEXT = 4096


def products(cell: Share) -> list[tuple[Cell, Tiling]]:
    """The products before and after attention, with the engine's present tilings."""
    projected = cell.heads + (1 if cell.fused else 2) * cell.kv_heads
    width, one, heads = cell.heads * cell.head_dim, cell.fused, (cell.heads, cell.kv_heads)
    before = Cell("wqkv", projected * cell.head_dim, cell.dim, PLAIN, cell.rows, True, False, *heads)
    after = Cell("wo", cell.dim, width, PLAIN, cell.rows, False, one and cell.world > 1, *heads)
    bulk = supported(DEVICE)
    return [(each, present_tiling(each, DTYPE.itemsize, bulk=bulk)) for each in (before, after)]


def random(*shape: int) -> Tensor:
    """Normally distributed numbers in the model's dtype, with a standard deviation of 0.02."""
    return torch.empty(shape, device=DEVICE, dtype=DTYPE).normal_(0, 0.02)


class Chain:
    """Buffers of more layers than the L2 cache can hold. Every row has `context` cached tokens."""

    def __init__(self, cell: Share, context: int, layers: int | None = None) -> None:
        self.cell, self._pdl, dim = cell, supported(DEVICE), cell.head_dim
        pages = -(-(context + 1) // PAGE_SIZE)
        size = (
            2 * cell.rows * pages * PAGE_SIZE * cell.kv_heads * dim + (2 * cell.heads + cell.kv_heads) * dim * cell.dim
        )
        self.layers = layers or (max(4, min(32, -(-COLD_BYTES // (size * DTYPE.itemsize)))) if GPU else 2)
        self._kv = PagedKV(self.layers, cell.rows * pages, PAGE_SIZE, cell.kv_heads, dim, DTYPE, DEVICE)
        self._kv.pages.normal_()
        self._products = [
            (Product(each, cell.world, [random(each.rows, each.k) for _ in range(self.layers)]), tiling)
            for each, tiling in products(cell)
        ]
        value_rows = cell.kv_heads * dim
        self._weights = [random(value_rows, cell.dim) for _ in range(self.layers)] if cell.fused else []
        self._qkv = random(cell.rows, (cell.heads + 2 * cell.kv_heads) * dim).mul_(50)
        self._h, self._gain = random(1, cell.dim).mul_(50), torch.ones(cell.dim, device=DEVICE, dtype=DTYPE)
        self._slot_rows = torch.arange(cell.rows, dtype=torch.int32, device=DEVICE)
        self._positions = torch.full((cell.rows,), context, dtype=torch.int32, device=DEVICE)
        tables = torch.zeros(cell.rows, MAX_CONTEXT // PAGE_SIZE, dtype=torch.int32)
        tables[:, :pages] = torch.randperm(cell.rows * pages, dtype=torch.int32).view(cell.rows, pages)
        self._tables = tables.to(DEVICE)
        angles = torch.rand(MAX_CONTEXT, dim // 2, device=DEVICE)
        self._cos, self._sin = angles.cos(), angles.sin()
        self._out = torch.zeros(cell.rows, cell.heads * dim, device=DEVICE, dtype=DTYPE)
        splits = cell.rows * cell.heads * max(MAX_SPLITS, 32)
        self._partial_out, self._partial_stats = (torch.zeros(splits, n, device=DEVICE) for n in (dim, 2))
        self._value_weight, self._partial_weight = (torch.zeros(cell.heads, device=DEVICE) for _ in range(2))
        self._counters = torch.zeros(cell.rows * cell.heads, dtype=torch.int32, device=DEVICE)

    def _attend(self, layer: int, each: Candidate, work: Tensor) -> None:
        """Launch attention as the engine does."""
        cell, kv = self.cell, self._kv
        if cell.fused:
            fused_decode_value_proj(
                self._qkv, self._h, self._gain, self._weights[layer], kv.k[layer], kv.v[layer], self._slot_rows,
                self._positions, self._tables, self._cos, self._sin, self._out, self._value_weight, self._partial_out,
                self._partial_stats, self._partial_weight, self._counters, heads=cell.heads, eps=1e-5,
                config=each.config, block=each.block, pdl=self._pdl,
            )  # fmt: skip
        elif cell.rows == 1:
            single_row_attention(
                self._qkv, kv.k[layer], kv.v[layer], self._slot_rows, self._positions, self._tables, self._cos,
                self._sin, self._out, self._partial_out, self._partial_stats, self._counters, heads=cell.heads,
                config=each.config, pdl=self._pdl,
            )  # fmt: skip
        else:
            decode_attention(
                self._qkv, kv.k[layer], kv.v[layer], work, self._slot_rows, self._positions, self._tables, self._cos,
                self._sin, self._out, self._partial_out, self._partial_stats, self._counters, heads=cell.heads,
                config=each.config, pdl=self._pdl,
            )  # fmt: skip

    def _work(self, each: Candidate) -> Tensor:
        """The list of splits, which a step computes once for all layers."""
        work = work_list(each.config.max_work_items(self.cell.rows), DEVICE)
        if self.cell.rows > 1:
            split_kv(self._slot_rows, self._positions, work, config=each.config)
        return work

    def compile(self, each: Candidate) -> None:
        """Attention alone, in a process where `only_compile` has been called."""
        self._attend(0, each, work_list(1, DEVICE))

    def result(self, each: Candidate) -> Tensor:
        """Attention's result in the first layer, float32 [rows, heads, head_dim]; a single row's value included."""
        cell = self.cell  # after an error in a kernel its counters are not zero
        self._counters.zero_()
        self._attend(0, each, self._work(each))
        heads = self._out.float().view(cell.rows, cell.heads, cell.head_dim)
        if not cell.fused:
            return heads
        value = self._qkv.float().view(1, -1, cell.head_dim)[:, cell.heads + cell.kv_heads :]
        value = value.repeat_interleave(cell.heads // cell.kv_heads, 1)
        return heads + self._value_weight[None, :, None] * value

    def microseconds(self, each: Candidate | None) -> float:
        """Time of a layer: product, attention, product; None: without attention. See `graph_timing`."""
        (before, first), (after, second) = self._products
        work = None if each is None else self._work(each)

        def run(layers: int) -> None:
            for layer in range(layers):
                before.run(layer, first)
                if each is not None and work is not None:
                    self._attend(layer, each, work)
                after.run(layer, second)

        if GPU:
            run(1)  # loads the programs, which a graph's capture may not do
        return microseconds(run, self.layers)


def only_compile() -> None:
    """Run at the start of a compiling process: kernels are compiled, not launched."""
    rank_products.only_compile()
    fused_module.fused_decode_value_proj_kernel = CompileOnly(fused_module.fused_decode_value_proj_kernel)
    single_row_module.single_row_attention_kernel = CompileOnly(single_row_module.single_row_attention_kernel)
    split_module.split_kv_kernel = CompileOnly(split_module.split_kv_kernel)
    decode_module.decode_attention_kernel = CompileOnly(decode_module.decode_attention_kernel)


def compile_split(rows: int, target: int, tile: int, min_tiles: int) -> str:
    """In a compiling process: compile the kernel that lists the splits."""
    config = SplitConfig(target, tile_tokens=tile, min_tiles=min_tiles)
    numbers = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    split_kv(numbers, numbers, work_list(config.max_work_items(rows), DEVICE), config=config)
    return ""


def compile_candidate(cell: Share, each: Candidate) -> str:
    """In a compiling process: compile attention. Returns the error, or an empty string."""
    try:
        Chain(cell, 1, 1).compile(each)
    except Exception as error:  # some need more than the compiler or the GPU has
        return f"{type(error).__name__}: {error}"
    return ""
