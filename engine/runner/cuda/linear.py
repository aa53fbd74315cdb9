"""A step's products with the layers' matrices: which kernel takes how many tokens, packed matrices or not.

It knows matrices and token counts, and neither layers' order nor attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.config import EngineConfig
from engine.kernels.dequantize import dequantize
from engine.kernels.gemm_configs import (
    FUSED_TOKENS,
    fit_shared_memory,
    gemm_config,
    gemv_config,
    quantized_gemm_config,
    quantized_gemv_config,
    token_block,
)
from engine.kernels.gemv import DeferredValue, Push, gemv
from engine.kernels.matmul import PLAIN, RESIDUAL, SILU, Scratch, Squares, matmul
from engine.kernels.pdl import supported
from engine.kernels.quantized_gemv import quantized_gemv
from engine.model.quantization import QuantizedWeight

H100_SHARED = 232448  # bytes of shared memory that one program may have
SMALLEST_SHARED = 99 << 10


class Linear:
    """`largest`: weights of the largest matrix that may be packed (0: none is)."""

    def __init__(self, config: EngineConfig, eps: float, largest: int) -> None:
        self._eps, self._single_rank, self._pdl = eps, config.world_size == 1, supported(config.device)
        self._shared = H100_SHARED
        if config.device.type == "cuda":
            properties = torch.cuda.get_device_properties(config.device)
            self._shared = getattr(properties, "shared_memory_per_block_optin", SMALLEST_SHARED)
        self._scratch = Scratch.allocate(config.device, 1 << 23)
        self._dequantize_buffer = torch.zeros(largest, dtype=config.dtype, device=config.device)

    def gemv(
        self,
        x: Tensor,
        layer: nn.Module,
        out: Tensor,
        *,
        gain: Tensor | None = None,
        kind: int = PLAIN,
        deferred: DeferredValue | None = None,
        rows: int | None = None,
        push: Push | None = None,
    ) -> None:
        """One token. `rows`: only the first so many of the matrix; like `joined` and `push`, not of a packed one."""
        weight = weight_of(layer)
        if isinstance(weight, QuantizedWeight):
            height, block, warps = quantized_gemv_config(kind)
            quantized_gemv(
                x[:1], weight, out[:1], gain=gain, eps=self._eps, silu=kind == SILU, residual=kind == RESIDUAL,
                pdl=self._pdl, rows=height, block=block, warps=warps,
            )  # fmt: skip
            return
        weight = weight[:rows]
        block, warps = gemv_config(weight.shape[1], kind)
        gemv(
            x[:1], weight, out[:1], gain=gain, eps=self._eps, silu=kind == SILU, residual=kind == RESIDUAL,
            pdl=self._pdl, block=block, warps=warps, two_rows=True, deferred=deferred, push=push,
        )  # fmt: skip

    def small_gemm(
        self,
        x: Tensor,
        layer: nn.Module,
        out: Tensor,
        bm: int,
        *,
        kind: int = PLAIN,
        norm: Squares | None = None,
        gain: Tensor | None = None,
        scaled: Tensor | None = None,
        into: Squares | None = None,
    ) -> int:
        """Up to FUSED_TOKENS, `bm` of them with the padding. With `into`: out is the residual stream, which becomes
        out + product; `scaled` gets that · gain, and `into` its sums of squares, of which so many parts."""
        weight = weight_of(layer)
        kind = RESIDUAL if into is not None else kind
        rows, k = weight.shape
        if isinstance(weight, QuantizedWeight):
            tiling = quantized_gemm_config(rows, k, kind, bm, weight.bits, self._shared)
        else:
            item = weight.element_size()
            tiling = fit_shared_memory(
                gemm_config(rows, k, kind, bm, item, bulk=self._pdl), kind, bm, item, self._shared
            )
        return matmul(
            x, weight, out, tiling, self._scratch, bm=bm, kind=kind, norm=norm, eps=self._eps, gain=gain,
            scaled=scaled, squares_out=None if into is None else into.sums, pdl=self._pdl,
        )  # fmt: skip

    def gemm(self, x: Tensor, layer: nn.Module, out: Tensor) -> None:
        """However many there are: out = product."""
        tokens = x.shape[0]
        if tokens == 1:
            self.gemv(x, layer, out)
        elif tokens <= FUSED_TOKENS // 2 and not self._single_rank:
            self.small_gemm(_padded(x), layer, _padded(out), token_block(tokens))
        else:
            torch.mm(x, self._dequantized(layer).T, out=out)

    def gemm_add(self, x: Tensor, layer: nn.Module, h: Tensor) -> None:
        """Many: h += product."""
        h.addmm_(x, self._dequantized(layer).T)

    def _dequantized(self, layer: nn.Module) -> Tensor:
        """The matrix as the library can multiply by it."""
        weight = weight_of(layer)
        if not isinstance(weight, QuantizedWeight):
            return weight
        whole = self._dequantize_buffer[: weight.shape.numel()].view(weight.shape)
        dequantize(weight, whole, pdl=self._pdl)
        return whole


def weight_of(layer: nn.Module) -> Tensor | QuantizedWeight:
    packed = getattr(layer, "quantized", None)
    if isinstance(packed, QuantizedWeight):
        return packed
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight


def _padded(x: Tensor) -> Tensor:
    """The buffer that x is the head of, as far as a padded product may read or write it."""
    return x.as_strided((token_block(x.shape[0]), x.shape[1]), x.stride())
