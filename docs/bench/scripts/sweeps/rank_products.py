"""One product of a rank's share: its buffers, the engine's call, its time in a CUDA graph, and its compilation.

It knows kernels and one GPU. rank_sweep.py chooses the products and tilings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from graph_timing import microseconds
from rank_tilings import Cell, GemvTiling, Tiling
from torch import Tensor

from engine.kernels.linear import gemv as gemv_module
from engine.kernels.linear import matmul as matmul_module
from engine.kernels.linear.gemv import DeferredValue, Push, gemv
from engine.kernels.linear.matmul import GATED, PartialSquares, Scratch, matmul
from engine.kernels.pdl import supported

GPU = torch.cuda.device_count() > 0
DEVICE, DTYPE = (torch.device("cuda", 0), torch.bfloat16) if GPU else (torch.device("cpu"), torch.float32)


class Product:
    """A cell's buffers. `weights`: copies of the matrix, [rows, k] each; `world`: ranks that a pushed sum has."""

    def __init__(self, cell: Cell, world: int, weights: list[Tensor]) -> None:
        self.cell, self.weights, self._pdl = cell, weights, supported(DEVICE)
        self._x = torch.randn(cell.bm, cell.k, device=DEVICE, dtype=DTYPE)
        self._gain = torch.ones(cell.k, device=DEVICE, dtype=DTYPE)
        dtype = torch.float32 if cell.pushes else DTYPE
        self.out = torch.zeros(cell.bm, cell.n, device=DEVICE, dtype=dtype)
        self._squares = PartialSquares(torch.full((16, cell.bm), float(cell.k), device=DEVICE), 1)
        self._scratch = Scratch.allocate(DEVICE)
        inboxes = tuple(torch.zeros(world, cell.n, dtype=torch.int64, device=DEVICE) for _ in range(world))
        epoch = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        self._push = Push(inboxes, epoch, 1, 0) if cell.pushes else None
        self._deferred = None
        if cell.product == "wo" and cell.tokens == 1:
            head_dim = cell.k // cell.heads
            value = torch.ones(1, cell.kv_heads * head_dim, device=DEVICE, dtype=DTYPE)
            weight = torch.zeros(cell.heads, device=DEVICE)
            self._deferred = DeferredValue(weight, value, cell.heads // cell.kv_heads, head_dim)

    def run(self, copy: int, tiling: Tiling) -> None:
        """The product as the engine calls it."""
        cell, weight = self.cell, self.weights[copy]
        if isinstance(tiling, GemvTiling):
            gemv(
                self._x[:1], weight, self.out[:1], gain=self._gain if cell.norm else None, eps=1e-5,
                gated=cell.kind == GATED, pdl=self._pdl, block=tiling.block, warps=tiling.warps,
                two_rows=tiling.two_rows, deferred=self._deferred, push=self._push,
            )  # fmt: skip
        else:
            matmul(
                self._x, weight, self.out, tiling, self._scratch, bm=cell.bm, kind=cell.kind,
                norm=self._squares if cell.norm else None, eps=1e-5, pdl=self._pdl,
            )  # fmt: skip

    def result(self, tiling: Tiling) -> Tensor:
        """The product with the first matrix, in float32. Copies it, since the next run writes `out` again."""
        # After an error in a kernel the counters of split-K are not zero.
        self._scratch.counters.zero_()
        self.run(0, tiling)
        return self.out.float().clone()

    def microseconds(self, tiling: Tiling) -> float:
        """Time of the product with one matrix; see `graph_timing`."""

        def launch(count: int) -> None:
            for copy in range(count):
                self.run(copy, tiling)

        return microseconds(launch, len(self.weights))


class CompileOnly:
    """Takes a kernel's place: a launch only compiles the kernel into Triton's cache on disk."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: object) -> Callable[..., object]:
        return lambda *arguments, **options: self._kernel.warmup(*arguments, grid=grid, **options)


def only_compile() -> None:
    """Run at the start of a compiling process: kernels are compiled, not launched."""
    gemv_module.gemv_kernel = CompileOnly(gemv_module.gemv_kernel)
    matmul_module.matmul_kernel = CompileOnly(matmul_module.matmul_kernel)


def compile_tiling(cell: Cell, world: int, tiling: Tiling) -> str:
    """In a compiling process: compile one tiling. Returns the error, or an empty string."""
    try:
        Product(cell, world, [torch.empty(cell.rows, cell.k, device=DEVICE, dtype=DTYPE)]).run(0, tiling)
    except Exception as error:  # some tilings need more than the compiler or the GPU has
        return f"{type(error).__name__}: {error}"
    return ""
