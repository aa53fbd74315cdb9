"""The residual stream of a step on a GPU: h += product, on one rank or summed over several, ready for the next norm.

On several ranks each product is a partial sum. Ranks that share memory sum it in our kernels (`Collectives`), the
others through torch.distributed. It knows products and ranks, and not what the layers are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.distributed.tensor_parallel import RowLinear
from engine.kernels import hidden_states
from engine.kernels.linear.gemv import DeferredValue
from engine.kernels.linear.matmul import RESIDUAL, PartialSquares
from engine.kernels.pdl import supported
from engine.model.quantized_weight import QuantizedWeight
from engine.model.transformer import RMSNorm, Transformer
from engine.runner.cuda.layers.collectives import Collectives
from engine.runner.cuda.layers.linear import Linear, weight_of

TWO_SHOT_RANKS = 3  # from this number on; with two ranks, both ways read as many bytes


class ResidualStream:
    """h, and x, what the next product reads of it; both [max_tokens, dim] in the model's dtype."""

    def __init__(
        self, config: EngineConfig, model: Transformer, linear: Linear, collectives: Collectives | None, max_tokens: int
    ) -> None:
        self._linear, self._collectives = linear, collectives
        self._final_gain, self._eps, self._pdl = model.norm.weight, model.spec.norm_eps, supported(config.device)
        self._single_rank = config.world_size == 1

        def buffer(tokens: int) -> Tensor:
            return torch.zeros(tokens, model.spec.dim, dtype=config.dtype, device=config.device)

        if collectives is None:
            self.h, self.x = buffer(max_tokens), buffer(max_tokens)
        else:
            self.h, self.x = collectives.h, collectives.x
        self._two_shot = config.world_size >= TWO_SHOT_RANKS
        adds_later = not self._single_rank or any(
            linear.is_scaled(layer, max_tokens) for layer in model.blocks[0].linears
        )
        self._partial_sum = buffer(max_tokens if adds_later and collectives is None else 0)
        # The sum over ranks, for models that do something to it before it is added.
        self._delta = buffer(0 if model.adds_products_directly else max_tokens)

    def add_gemv(self, x: Tensor, layer: nn.Module, deferred: DeferredValue | None = None) -> None:
        """One token: h += product of x, to which `deferred` is added first."""
        if self._collectives is None:
            self._linear.gemv(x, layer, self.h, kind=RESIDUAL, deferred=deferred)
        elif isinstance(weight_of(layer), QuantizedWeight):
            self._linear.gemv(x, layer, self._collectives.partial_sum, deferred=deferred)
            self._collectives.all_reduce(self.h, self._final_gain, 1)  # without `out` the gain is not used
        else:
            push = self._collectives.push
            self._linear.gemv(x, layer, self._collectives.row_partial_sum, deferred=deferred, push=push)
            self._collectives.all_reduce_row(self.h[:1])

    def add_small_gemm(
        self, x: Tensor, layer: nn.Module, bm: int, tokens: int, gain: Tensor, squares: PartialSquares, h: Tensor
    ) -> PartialSquares:
        """Up to FUSED_TOKENS tokens, `bm` with the padding: h += product, self.x = h · gain.

        `h` is self.h, or another residual stream of the same width. Returns h's partial sums of squares, in the memory
        of `squares`.
        """
        if self._collectives is None:
            num_parts = self._linear.small_gemm(x, layer, h, bm, gain=gain, scaled=self.x, squares_out=squares)
            return PartialSquares(squares.sums, num_parts)
        self._linear.small_gemm(x, layer, self._collectives.partial_sum, bm)
        num_parts = self._collectives.all_reduce(h, gain, tokens, out=self.x, squares=squares.sums)
        return PartialSquares(squares.sums, num_parts)

    def add_gemm(
        self,
        x: Tensor,
        layer: RowLinear,
        norm: RMSNorm | None,
        post: RMSNorm | None = None,
        *,
        gated: bool = False,
        whole: bool = True,
    ) -> None:
        """Any number of tokens: h += post(product + bias), self.x = norm(h). Without `norm`, self.x is not needed.

        `gated`: of scaled products only; x holds gate and up, still to be multiplied. Without `whole`, only the next
        call may read h, and it must have the same number of tokens.
        """
        if post is not None or layer.bias is not None:
            self._gemm(x, layer, self.partial(x.shape[0]), gated=gated)
            self.add_partial(x.shape[0], norm, post, layer.bias)
            return
        tokens = x.shape[0]
        h, out, gain = self.h[:tokens], self.x[:tokens], self._final_gain if norm is None else norm.weight
        if self._collectives is not None:
            self._gemm(x, layer, self._collectives.partial_sum[:tokens], gated=gated)
            if self._two_shot:
                self._collectives.two_shot_all_reduce(gain, tokens, norm=norm is not None, whole=whole, eps=self._eps)
                return
            self._collectives.all_reduce(h, gain, tokens, out=None if norm is None else out, eps=self._eps)
            return
        delta: Tensor | None = None
        if self._single_rank and not self._linear.is_scaled(layer, tokens):
            self._linear.gemm_add(x, layer, h)
        else:
            delta = self._partial_sum[:tokens]
            self._gemm(x, layer, delta, gated=gated)
            if not self._single_rank:
                delta = tensor_parallel.all_reduce(delta)
        if norm is not None or delta is not None:
            hidden_states.norm(h, gain, out, self._eps, tokens, delta=delta, pdl=self._pdl)

    def _gemm(self, x: Tensor, layer: RowLinear, out: Tensor, *, gated: bool) -> None:
        if gated:
            self._linear.scaled_gemm(x, layer, out, gated=True)
        else:
            self._linear.gemm(x, layer, out)

    def partial(self, tokens: int) -> Tensor:
        """[tokens, dim]: where this rank puts what `add_partial` sums over the ranks."""
        return (self._delta if self._collectives is None else self._collectives.partial_sum)[:tokens]

    def add_partial(
        self, tokens: int, norm: RMSNorm | None, post: RMSNorm | None = None, bias: Tensor | None = None
    ) -> None:
        """h += post(sum of all ranks' `partial` + bias), self.x = norm(h)."""
        gain = self._final_gain if norm is None else norm.weight
        delta = self._delta[:tokens]
        if self._collectives is not None:
            delta.zero_()
            self._collectives.all_reduce(delta, gain, tokens)  # without `out` the gain is not used
        elif not self._single_rank:
            tensor_parallel.all_reduce(delta)
        hidden_states.norm(
            self.h[:tokens], gain, self.x[:tokens], self._eps, tokens, delta=delta, bias=bias,
            post_gain=None if post is None else post.weight, pdl=self._pdl,
        )  # fmt: skip
