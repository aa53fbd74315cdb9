"""A step's products with weight matrices on a GPU: which kernel for how many tokens, quantized weights or not.

It knows matrices and token counts, and neither the layers' order nor attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.config import EngineConfig
from engine.kernels.linear.eight_bit_dequantize import eight_bit_dequantize
from engine.kernels.linear.eight_bit_gemv import eight_bit_gemv
from engine.kernels.linear.eight_bit_matmul import eight_bit_matmul
from engine.kernels.linear.eight_bit_prompt import eight_bit_prompt
from engine.kernels.linear.gemm_configs import (
    FUSED_TOKENS,
    eight_bit_gemm_config,
    eight_bit_gemv_config,
    eight_bit_prompt_config,
    fit_shared_memory,
    gemm_config,
    gemv_config,
    token_block,
)
from engine.kernels.linear.gemv import DeferredValue, Push, gemv
from engine.kernels.linear.int4.configs import int4_gemv_config, int4_matmul_config, int4_prompt_config
from engine.kernels.linear.int4.dequantize import int4_dequantize
from engine.kernels.linear.int4.gemv import int4_gemv
from engine.kernels.linear.int4.matmul import ADD, int4_matmul
from engine.kernels.linear.matmul import GATED, PLAIN, RESIDUAL, PartialSquares, Scratch, matmul
from engine.kernels.pdl import supported
from engine.model.eight_bit_weight import EightBitWeight
from engine.model.int4_weight import Int4Weight
from engine.runner.cuda.layers.scaled_products import ScaledProducts

H100_SHARED_BYTES = 232448  # shared memory that one program may have
# The most tokens of a step for which our GEMM reads quantized weights; for more, they are dequantized for cuBLAS.
EIGHT_BIT_PROMPT_TOKENS, INT4_PROMPT_TOKENS = 1024, 256
MIN_SHARED_BYTES = 99 << 10  # for GPUs of which torch does not say it


class Linear:
    """Products with the layers' matrices. The largest quantized one has `max_quantized_weights` weights (0: none is).

    The ending GATED is the gated product: of SiLU, or with `gelu` of GELU. `layer` is a linear module of the model.
    `scaled`: products of many tokens and fp8 weights in 8 bits; without it fp8 weights are multiplied as int8 ones.
    Inputs and outputs are contiguous, in the model's dtype unless said.
    """

    def __init__(
        self,
        config: EngineConfig,
        eps: float,
        max_quantized_weights: int,
        *,
        gelu: bool = False,
        scaled: ScaledProducts | None = None,
    ) -> None:
        self._scaled = scaled
        self._gelu = gelu
        self._eps, self._single_rank, self._pdl = eps, config.world_size == 1, supported(config.device)
        self._shared_bytes = H100_SHARED_BYTES
        if config.device.type == "cuda":
            properties = torch.cuda.get_device_properties(config.device)
            self._shared_bytes = getattr(properties, "shared_memory_per_block_optin", MIN_SHARED_BYTES)
        self._scratch = Scratch.allocate(config.device, 1 << 23)
        self._dequantize_buffer = torch.zeros(max_quantized_weights, dtype=config.dtype, device=config.device)

    def gemv(
        self,
        x: Tensor,
        layer: nn.Module,
        out: Tensor,
        *,
        gain: Tensor | None = None,
        kind: int = PLAIN,
        deferred: DeferredValue | None = None,
        num_rows: int | None = None,
        push: Push | None = None,
    ) -> None:
        """One token: out[:1] = norm(x[:1]) · weightᵀ with the ending `kind`; see `kernels.gemv`.

        `num_rows`: only the first rows of the matrix. It and `deferred` are not for weights of 4 bits, `push` is for no
        quantized ones.
        """
        weight = weight_of(layer)
        if isinstance(weight, Int4Weight):
            rows, k = weight.shape
            height, warps, ahead = int4_gemv_config(rows, k, kind)
            int4_gemv(
                x[:1], weight, out[:1], gain=gain, eps=self._eps, gated=kind == GATED, gelu=self._gelu,
                residual=kind == RESIDUAL, pdl=self._pdl, height=height, warps=warps, ahead=ahead,
            )  # fmt: skip
            return
        if isinstance(weight, EightBitWeight):
            rows, block, warps = eight_bit_gemv_config(weight.shape[1], kind)
            eight_bit_gemv(
                x[:1], weight.words, weight.scales, out[:1], fp8=weight.fp8, gain=gain, eps=self._eps,
                gated=kind == GATED, gelu=self._gelu, residual=kind == RESIDUAL, deferred=deferred, num_rows=num_rows,
                pdl=self._pdl, rows=rows, block=block, warps=warps,
            )  # fmt: skip
            return
        weight = weight[:num_rows]
        block, warps = gemv_config(weight.shape[1], kind)
        gemv(
            x[:1], weight, out[:1], gain=gain, eps=self._eps, gated=kind == GATED, gelu=self._gelu,
            residual=kind == RESIDUAL, pdl=self._pdl, block=block, warps=warps, two_rows=True, deferred=deferred,
            push=push,
        )  # fmt: skip

    def small_gemm(
        self,
        x: Tensor,
        layer: nn.Module,
        out: Tensor,
        bm: int,
        *,
        kind: int = PLAIN,
        norm: PartialSquares | None = None,
        gain: Tensor | None = None,
        scaled: Tensor | None = None,
        squares_out: PartialSquares | None = None,
    ) -> int:
        """Up to FUSED_TOKENS tokens, `bm` with the padding: out = x · weightᵀ; see `kernels.matmul`.

        With `squares_out`, out is the residual stream: out += product, scaled = out · gain, and squares_out gets out's
        partial sums of squares. Returns how many of them there are.
        """
        weight = weight_of(layer)
        kind = RESIDUAL if squares_out is not None else kind
        rows, k = weight.shape
        if isinstance(weight, Int4Weight):
            return int4_matmul(
                x, weight, out, int4_matmul_config(rows, k, kind, bm, self._shared_bytes), self._scratch, bm=bm,
                kind=kind, gelu=self._gelu, norm=norm, eps=self._eps, gain=gain, scaled=scaled,
                squares_out=None if squares_out is None else squares_out.sums, pdl=self._pdl,
            )  # fmt: skip
        if isinstance(weight, EightBitWeight):
            tiling = eight_bit_gemm_config(rows, k, kind, bm, x.element_size(), self._shared_bytes)
            return eight_bit_matmul(
                x, weight.words, weight.scales, out, tiling, self._scratch, fp8=weight.fp8, bm=bm, kind=kind,
                gelu=self._gelu, norm=norm, eps=self._eps, gain=gain, scaled=scaled,
                squares_out=None if squares_out is None else squares_out.sums, pdl=self._pdl,
            )  # fmt: skip
        item = weight.element_size()
        config = fit_shared_memory(gemm_config(rows, k, kind, bm, item), kind, bm, item, self._shared_bytes)
        return matmul(
            x, weight, out, config, self._scratch, bm=bm, kind=kind, gelu=self._gelu, norm=norm, eps=self._eps,
            gain=gain, scaled=scaled, squares_out=None if squares_out is None else squares_out.sums, pdl=self._pdl,
        )  # fmt: skip

    def gemm(self, x: Tensor, layer: nn.Module, out: Tensor) -> None:
        """Any number of tokens: out = x · weightᵀ. x and out begin buffers that have room for a padded GEMM."""
        tokens = x.shape[0]
        if tokens == 1:
            self.gemv(x, layer, out)
        elif tokens <= FUSED_TOKENS // 2 and not (self._single_rank and isinstance(weight_of(layer), Tensor)):
            self.small_gemm(padded(x), layer, padded(out), token_block(tokens))
        elif self.is_scaled(layer, tokens):
            self.scaled_gemm(x, layer, out)
        elif not self._quantized_prompt(x, layer, out, add=False):
            torch.mm(x, self._dequantized(layer).T, out=out)

    def gemm_add(self, x: Tensor, layer: nn.Module, h: Tensor) -> None:
        """Many tokens: h += x · weightᵀ. Not for layers whose product `is_scaled`."""
        if not self._quantized_prompt(x, layer, h, add=True):
            h.addmm_(x, self._dequantized(layer).T)

    def _quantized_prompt(self, x: Tensor, layer: nn.Module, out: Tensor, *, add: bool) -> bool:
        """Compute the product by our GEMM from quantized weights. False if it did not: then cuBLAS must compute it."""
        weight, tokens = weight_of(layer), x.shape[0]
        rows, k = weight.shape
        if isinstance(weight, Int4Weight) and tokens <= INT4_PROMPT_TOKENS:
            bm, config = int4_prompt_config(rows, tokens, self._shared_bytes)
            int4_matmul(
                x, weight, out, config, self._scratch, bm=bm, kind=ADD if add else PLAIN, pdl=self._pdl, tokens=tokens
            )
            return True
        # Tensor cores have no exact float32 products, so our GEMM would be slow with float32 tokens.
        if isinstance(weight, EightBitWeight) and tokens <= EIGHT_BIT_PROMPT_TOKENS and x.element_size() == 2:
            bulk = self._pdl and k % 8 == 0  # bulk copies take rows of whole 16 bytes
            bm, config = eight_bit_prompt_config(rows, tokens, self._shared_bytes, bulk=bulk)
            eight_bit_prompt(x, weight.words, weight.scales, out, config, fp8=weight.fp8, bm=bm, add=add, pdl=self._pdl)
            return True
        return False

    def is_scaled(self, layer: nn.Module, tokens: int) -> bool:
        """Whether `gemm` multiplies 8 bits both ways: fp8 weights and many tokens."""
        return self._scaled is not None and tokens > FUSED_TOKENS // 2 and ScaledProducts.takes(weight_of(layer))

    def scaled_gemm(self, x: Tensor, layer: nn.Module, out: Tensor, *, gated: bool = False) -> None:
        """`gemm` of a layer whose product `is_scaled`. `gated`: x holds gate and up, still to be multiplied."""
        weight = weight_of(layer)
        if self._scaled is None or not isinstance(weight, EightBitWeight):
            raise TypeError(f"{type(layer).__name__} has no scaled product")
        self._scaled.product(x, weight, out, gated=gated, gelu=self._gelu)

    def _dequantized(self, layer: nn.Module) -> Tensor:
        """The matrix in a dtype that cuBLAS multiplies; valid until the next call."""
        weight = weight_of(layer)
        if isinstance(weight, Tensor):
            return weight
        matrix = self._dequantize_buffer[: weight.shape.numel()].view(weight.shape)
        if isinstance(weight, Int4Weight):
            int4_dequantize(weight, matrix, pdl=self._pdl)
        else:
            eight_bit_dequantize(weight.words, weight.scales, matrix, fp8=weight.fp8, pdl=self._pdl)
        return matrix


def weight_of(layer: nn.Module) -> Tensor | Int4Weight | EightBitWeight:
    """A linear module's weight, quantized or not. TypeError if it has none."""
    quantized = getattr(layer, "quantized", None)
    if isinstance(quantized, Int4Weight | EightBitWeight):
        return quantized
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight


def padded(x: Tensor) -> Tensor:
    """The buffer that x is the head of, up to the tokens that a padded GEMM may read or write."""
    return x.as_strided((token_block(x.shape[0]), x.shape[1]), x.stride())
