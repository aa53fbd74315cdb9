"""One step's forward out of our kernels: from token ids to sampled ids, all in buffers that never move.

The same launches, in the same order, whatever the values in the buffers: so a step of a given size can be recorded as a
CUDA graph and replayed. It knows the order of layers; which requests the rows are is the runner's business. Runs on a
CPU too, in Triton's interpreter, for the tests.

A step's tokens lie in one line: first a place for each slot (a row that decodes one token), then the chunks' tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.kernels import pointwise
from engine.kernels.gemm_configs import FUSED_TOKENS, token_block
from engine.kernels.gemv import DeferredValue
from engine.kernels.matmul import RESIDUAL, SILU, Squares
from engine.kernels.pdl import supported
from engine.kernels.sampling import sample
from engine.model.quantization import QuantizedWeight
from engine.model.transformer import Block, RMSNorm, Transformer
from engine.runner.cuda.attention import Attention
from engine.runner.cuda.collectives import ArenaFactory, Collectives
from engine.runner.cuda.input_batch import BatchShape, BatchState, StepInputs
from engine.runner.cuda.linear import Linear, weight_of


class CudaForward:
    """The buffers, and `run`. `most` is the largest number of tokens that a step may have."""

    def __init__(
        self, config: EngineConfig, model: Transformer, max_tokens: int, max_samples: int, create_arena: ArenaFactory
    ) -> None:
        self.model, self.eps = model, model.spec.norm_eps
        self.device, self.dtype = config.device, config.dtype
        self.pdl = supported(config.device)
        self.single_rank, self.is_rank_0 = config.world_size == 1, config.rank == 0
        block, dim = self._blocks()[0], model.spec.dim
        self.attention = Attention(config, model, block, max_samples)
        shapes = [weight_of(layer).shape for layer in (block.wqkv, block.w13, block.w2)]
        self.quantized = isinstance(weight_of(block.wqkv), QuantizedWeight)
        self.linear = Linear(config, self.eps, max(shape.numel() for shape in shapes) if self.quantized else 0)
        padded, rows = max(FUSED_TOKENS, token_block(max_samples), max_tokens), token_block(max_samples)
        self.collectives = Collectives.create(
            create_arena, ranks=config.world_size, most=padded, dim=dim, samples=rows, width=model.output.width,
            dtype=self.dtype, pdl=self.pdl,
        )  # fmt: skip
        self.h, self.x = (self._buffer(padded, dim) for _ in range(2))
        self.delta = self._buffer(0 if self.single_rank or self.collectives else padded, dim)
        self.qkv = self._buffer(padded, (block.heads + 2 * block.kv_heads) * block.head_dim)
        self.attended = self._buffer(padded, block.heads * block.head_dim)
        self.gate_up, self.gated = self._buffer(padded, 2 * block.ffn), self._buffer(padded, block.ffn)
        self.final = self._buffer(rows, dim)
        # The last layer's tokens that something is sampled from: residual stream, attention's output.
        self.last_h, self.last_attended = self._buffer(rows, dim), self._buffer(rows, block.heads * block.head_dim)
        whole = self.single_rank or (self.collectives is not None and self.is_rank_0)
        columns = model.spec.vocab_size if whole else model.output.output_size_per_partition
        self.logits = self._buffer(rows, columns, dtype=torch.float32)
        self.ids = torch.zeros(max_samples, dtype=torch.int32, device=self.device)
        # Partial sums of squares: at most one part for 16 columns.
        self.squares = [self._buffer(-(-dim // 16), FUSED_TOKENS, dtype=torch.float32) for _ in range(2)]

    def _buffer(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def _blocks(self) -> list[Block]:
        return [layer for layer in self.model.layers if isinstance(layer, Block)]

    def run(self, size: BatchShape, inputs: StepInputs, rows: BatchState) -> None:
        """Feed the step's tokens, sample, move the rows on."""
        sums = self.collectives
        if sums is not None:
            sums.begin_step()
        fused = self._uses_own_gemm and size.num_tokens <= FUSED_TOKENS
        if size.num_slots and not (fused and size.num_tokens == 1 and self._fuses_value_proj):
            self.attention.split_contexts(size, inputs, rows)
        if fused:
            self._forward_fused(size, inputs, rows)
        else:
            self._forward_plain(size, inputs, rows)
        logits = self._logits(inputs)
        count = inputs.sample_rows.shape[0]
        ids = self.ids[:count]
        if self.is_rank_0:
            sample(
                logits, inputs.sample_rows, inputs.sample_positions, rows.positions, rows.temperatures, rows.top_ps,
                rows.seeds, ids if sums is None else sums.ids[:count], pdl=self.pdl,
            )  # fmt: skip
        if sums is not None:
            sums.broadcast_ids(ids)
        else:
            tensor_parallel.broadcast(ids)
        pointwise.advance(
            ids, inputs.sample_rows, inputs.sample_positions, rows.last_tokens, rows.positions,
            epoch=None if sums is None else sums.epoch, sites=0 if sums is None else sums.site, pdl=self.pdl,
        )  # fmt: skip

    def _forward_fused(self, size: BatchShape, inputs: StepInputs, rows: BatchState) -> None:
        """Few tokens: norms and gate live inside the products, and on one rank the residual sums too."""
        blocks, total, one = self._blocks(), size.num_tokens, size.num_tokens == 1
        bm = token_block(total)
        squares, spare = self._squares(0, bm), self._squares(1, bm)
        pointwise.embed(
            self.model.tok_embeddings.weight, inputs.slot_rows, rows.last_tokens, inputs.chunk_tokens, self.h, total,
            gain=blocks[0].attention_norm.weight, scaled=None if one else self.x,
            squares=None if one else squares.sums, pdl=self.pdl,
        )  # fmt: skip
        for number, block in enumerate(blocks):
            following = blocks[number + 1].attention_norm if number + 1 < len(blocks) else self.model.norm
            if one:
                joined = self._attend_row(number, size, block, inputs, rows)
                self._add_gemv(self.attended, block.wo, joined)
                self.linear.gemv(self.h, block.w13, self.gated, gain=block.ffn_norm.weight, kind=SILU)
                self._add_gemv(self.gated, block.w2)
                continue
            self.linear.small_gemm(self.x, block.wqkv, self.qkv, bm, norm=squares)
            self.attention.attend(number, size, inputs, rows, self.qkv, self.attended)
            spare = self._add_small_gemm(self.attended, block.wo, bm, total, block.ffn_norm.weight, spare, self.h)
            self.linear.small_gemm(self.x, block.w13, self.gated, bm, kind=SILU, norm=spare)
            squares = self._add_small_gemm(self.gated, block.w2, bm, total, following.weight, squares, self.h)
        self._final(inputs)

    def _forward_plain(self, size: BatchShape, inputs: StepInputs, rows: BatchState) -> None:
        """Many tokens, or ranks that share no memory: library products and small kernels between them."""
        total = size.num_tokens
        h, x, qkv, attended = self.h[:total], self.x[:total], self.qkv[:total], self.attended[:total]
        gate_up, gated = self.gate_up[:total], self.gated[:total]
        pointwise.embed(
            self.model.tok_embeddings.weight, inputs.slot_rows, rows.last_tokens, inputs.chunk_tokens, h, total,
            pdl=self.pdl,
        )  # fmt: skip
        blocks = self._blocks()
        pointwise.norm(h, blocks[0].attention_norm.weight, x, self.eps, total, pdl=self.pdl)
        for number, block in enumerate(blocks):
            following = blocks[number + 1].attention_norm if number + 1 < len(blocks) else None
            self.linear.gemm(x, block.wqkv, qkv)
            self.attention.attend(number, size, inputs, rows, self.qkv, self.attended)
            if following is None and self._can_prune_last_layer(size, inputs):
                self._pruned_last_layer(block, inputs)
                return
            self._add_gemm(attended, block.wo, block.ffn_norm)
            self.linear.gemm(x, block.w13, gate_up)
            pointwise.silu_mul(gate_up, gated, total, pdl=self.pdl)
            self._add_gemm(gated, block.w2, following)
        self._final(inputs)

    def _can_prune_last_layer(self, size: BatchShape, inputs: StepInputs) -> bool:
        few = inputs.sample_rows.shape[0] <= FUSED_TOKENS < size.num_tokens
        return few and self._uses_own_gemm

    def _pruned_last_layer(self, block: Block, inputs: StepInputs) -> None:
        """The rest of the last layer, for the tokens alone that something is sampled from."""
        sources, h = inputs.sample_sources, self.last_h
        count = sources.shape[0]
        bm = token_block(count)
        pointwise.gather(self.h, self.attended, sources, h, self.last_attended, pdl=self.pdl)
        squares = self._add_small_gemm(
            self.last_attended, block.wo, bm, count, block.ffn_norm.weight, self._squares(0, bm), h
        )
        self.linear.small_gemm(self.x, block.w13, self.gated, bm, kind=SILU, norm=squares)
        self._add_small_gemm(self.gated, block.w2, bm, count, self.model.norm.weight, self._squares(1, bm), h)
        pointwise.norm(h, self.model.norm.weight, self.final, self.eps, count, pdl=self.pdl)

    def _squares(self, which: int, bm: int) -> Squares:
        sums = self.squares[which].view(-1)
        return Squares(sums[: bm * (sums.numel() // bm)].view(-1, bm), 1)

    def _add_gemv(self, x: Tensor, layer: nn.Module, joined: DeferredValue | None = None) -> None:
        """One row: h += product."""
        if self.collectives is None:
            self.linear.gemv(x, layer, self.h, kind=RESIDUAL, deferred=joined)
        elif isinstance(weight_of(layer), QuantizedWeight):
            self.linear.gemv(x, layer, self.collectives.partial_sum)
            self.collectives.all_reduce(self.h, self.model.norm.weight, 1)
        else:
            self.linear.gemv(x, layer, self.collectives.row_partial_sum, deferred=joined, push=self.collectives.push)
            self.collectives.all_reduce_row(self.h[:1])

    def _add_small_gemm(
        self, x: Tensor, layer: nn.Module, bm: int, total: int, gain: Tensor, into: Squares, h: Tensor
    ) -> Squares:
        """Up to FUSED_TOKENS: h += product, self.x = h · gain; the sums of squares."""
        if self.collectives is None:
            return Squares(into.sums, self.linear.small_gemm(x, layer, h, bm, gain=gain, scaled=self.x, into=into))
        self.linear.small_gemm(x, layer, self.collectives.partial_sum, bm)
        self.collectives.all_reduce(h, gain, total, out=self.x, squares=into.sums)
        return Squares(into.sums, 1)

    def _add_gemm(self, x: Tensor, layer: nn.Module, norm: RMSNorm | None) -> None:
        """Many: h += product, self.x = norm(h)."""
        total = x.shape[0]
        h, out, gain = self.h[:total], self.x[:total], self.model.norm.weight if norm is None else norm.weight
        if self.collectives is not None:
            self.linear.gemm(x, layer, self.collectives.partial_sum[:total])
            self.collectives.all_reduce(h, gain, total, out=None if norm is None else out, eps=self.eps)
            return
        delta: Tensor | None = None
        if self.single_rank:
            self.linear.gemm_add(x, layer, h)
        else:
            delta = tensor_parallel.all_reduce(self._produced(x, layer))
        if norm is not None or delta is not None:
            pointwise.norm(h, gain, out, self.eps, total, delta=delta, pdl=self.pdl)

    def _produced(self, x: Tensor, layer: nn.Module) -> Tensor:
        delta = self.delta[: x.shape[0]]
        self.linear.gemm(x, layer, delta)
        return delta

    @property
    def _uses_own_gemm(self) -> bool:
        """Whether a few tokens go through our own products: on one rank, or where ranks share memory."""
        return self.single_rank or self.collectives is not None

    @property
    def _fuses_value_proj(self) -> bool:
        """Whether a lone row's attention runs beside the product of its value: where nothing is narrow."""
        return not self.quantized and self.attention.is_unquantized

    def _attend_row(
        self, layer: int, size: BatchShape, block: Block, inputs: StepInputs, rows: BatchState
    ) -> DeferredValue | None:
        """One row: `attended`, in two parts where nothing is narrow."""
        gain, weight, attention = block.attention_norm.weight, weight_of(block.wqkv), self.attention
        if isinstance(weight, QuantizedWeight) or not self._fuses_value_proj:
            self.linear.gemv(self.h, block.wqkv, self.qkv, gain=gain)
            attention.attend(layer, size, inputs, rows, self.qkv, self.attended)
            return None
        cached = attention.num_qk_rows
        self.linear.gemv(self.h, block.wqkv, self.qkv, gain=gain, rows=cached)
        return attention.attend_and_project_value(
            layer, inputs, rows, self.h, gain, weight[cached:], self.qkv, self.attended
        )

    def _final(self, inputs: StepInputs) -> None:
        pointwise.norm(
            self.h, self.model.norm.weight, self.final, self.eps, inputs.sample_sources.shape[0],
            sources=inputs.sample_sources, pdl=self.pdl,
        )  # fmt: skip

    def _logits(self, inputs: StepInputs) -> Tensor:
        count, output = inputs.sample_rows.shape[0], self.model.output
        columns = weight_of(output).shape[0]
        mine = self.logits if self.collectives is None else self.collectives.logits(token_block(count), columns)
        if count == 1:
            self.linear.gemv(self.final, output, mine)
        elif token_block(count) <= FUSED_TOKENS:
            self.linear.small_gemm(self.final, output, mine, token_block(count))
        else:
            mine[:count] = F.linear(self.final[:count], output.weight).float()
        if self.collectives is not None:
            self.collectives.gather_logits(self.logits, count)
            return self.logits[:count]
        if self.single_rank:
            return self.logits[:count]
        local = F.pad(self.logits[:count, :columns], (0, output.width - columns))
        return tensor_parallel.gather_columns(local, output.vocab)
