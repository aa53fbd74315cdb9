"""A step's mixture of experts on a GPU: the buffers, and the order of the kernels.

It knows routers and experts' matrices, and neither the residual stream nor other ranks: each has its columns of all
experts, and chooses the same ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.kernels.linear.experts import arrange, combine, max_blocks, route
from engine.kernels.linear.grouped_matmul import ExpertMatrices, grouped_matmul
from engine.kernels.pdl import supported
from engine.model.experts import Experts
from engine.model.transformer import Transformer
from engine.runner.cuda.layers.linear import weight_of


def pair_block(pairs: int, experts: int) -> int:
    """Pairs of a block: about as many as an expert has, within what registers hold."""
    return 16 if pairs <= 16 * experts else 32 if pairs <= 32 * experts else 64


class CudaExperts:
    """The feed-forward of all blocks of a mixture of experts, for steps of up to `max_tokens` tokens."""

    def __init__(self, config: EngineConfig, model: Transformer, max_tokens: int) -> None:
        self._pdl, self._gelu = supported(config.device), model.spec.architecture.uses_gelu
        self._layers = [experts for block in model.blocks if (experts := block.experts) is not None]
        # Of each layer, all experts' w13 and w2.
        self._w13 = [ExpertMatrices.of([weight_of(expert.w13) for expert in layer.all]) for layer in self._layers]
        self._w2 = [ExpertMatrices.of([weight_of(expert.w2) for expert in layer.all]) for layer in self._layers]
        self._per_token, self._count = self._layers[0].per_token, len(self._layers[0].all)
        pairs, ffn = max_tokens * self._per_token, model.blocks[0].ffn

        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=config.device)

        def buffer(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=config.dtype, device=config.device)

        self._logits, self._gated, self._products = (
            buffer(max_tokens, self._count), buffer(pairs, ffn), buffer(pairs, model.spec.dim)
        )  # fmt: skip
        self._chosen = ints(max_tokens, self._per_token)
        self._weights = torch.zeros(max_tokens, self._per_token, device=config.device)
        # A larger block means fewer blocks, but each expert's last one is padded to it.
        self._order = ints(pairs + 64 * self._count)
        self._block_experts, self._num_blocks = ints(max_blocks(pairs, self._count, 16)), ints(1)
        self._counts = ints(self._count)

    def run(self, layer: int, x: Tensor, out: Tensor) -> None:
        """out [tokens, dim] = this rank's part of layer `layer`'s experts of x [tokens, dim]."""
        experts: Experts = self._layers[layer]
        tokens = x.shape[0]
        pairs = tokens * self._per_token
        block = pair_block(pairs, self._count)
        blocks = max_blocks(pairs, self._count, block)
        logits, chosen, weights = self._logits[:tokens], self._chosen[:tokens], self._weights[:tokens]
        torch.mm(x, experts.router.T, out=logits)
        route(logits, chosen, weights, normalized=experts.normalized, pdl=self._pdl)
        arrange(chosen, self._counts, self._order, self._block_experts, self._num_blocks, block=block, pdl=self._pdl)
        grouped_matmul(
            x, self._w13[layer], self._gated, self._order, self._block_experts, self._num_blocks, blocks=blocks,
            block=block, per_row=self._per_token, gated=True, gelu=self._gelu, pdl=self._pdl,
        )  # fmt: skip
        grouped_matmul(
            self._gated, self._w2[layer], self._products, self._order, self._block_experts, self._num_blocks,
            blocks=blocks, block=block, per_row=1, pdl=self._pdl,
        )  # fmt: skip
        combine(self._products, weights, out, pdl=self._pdl)
