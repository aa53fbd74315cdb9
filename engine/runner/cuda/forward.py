"""One step's forward pass in our kernels: from token ids to sampled ids, in buffers at fixed addresses.

The launches and their order depend on the batch shape alone, not on the values in the buffers, so a step of a given
shape can be recorded as a CUDA graph and replayed. In Triton's interpreter it runs on a CPU too, for the tests.

A step takes one of two paths:

- Fused: up to FUSED_TOKENS tokens, on one rank or on ranks that share memory. Norm, gate and residual sum happen inside
  the matrix products: `Linear.gemv` for one token, `Linear.small_gemm` for more.
- Plain: all other steps. `Linear.gemm` and `gemm_add`, mostly cuBLAS, with small kernels in between. All steps of
  models whose products are biased or normalized before they are added take it, and of mixtures of experts.

It knows the order of the layers, but not which requests the rows belong to.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.kernels import hidden_states, pointwise
from engine.kernels.linear.gemm_configs import FUSED_TOKENS, token_block
from engine.kernels.linear.gemv import DeferredValue
from engine.kernels.linear.matmul import GATED, PartialSquares
from engine.kernels.pdl import supported
from engine.kernels.qkv import bias_and_norm
from engine.kernels.sampling import sample
from engine.kernels.verification import accept_drafts, place_tokens
from engine.model.eight_bit_weight import EightBitWeight
from engine.model.int4_weight import Int4Weight
from engine.model.quantized_weight import QuantizedWeight
from engine.model.transformer import Block, Transformer, padding_ids
from engine.runner.cuda.batch.input_batch import BatchShape, BatchState, StepInputs
from engine.runner.cuda.layers.attention import CudaAttention
from engine.runner.cuda.layers.collectives import ArenaFactory, Collectives
from engine.runner.cuda.layers.experts import CudaExperts
from engine.runner.cuda.layers.linear import Linear, padded, weight_of
from engine.runner.cuda.layers.residual import ResidualStream
from engine.runner.cuda.layers.scaled_products import ScaledProducts


class CudaForward:
    """The forward pass of steps of up to `max_tokens` tokens, `max_slots` slots and `max_samples` samples, and all its
    buffers.

    `ids` int32 [max_samples] and `logits` float32 hold the last step's result.
    """

    def __init__(
        self,
        config: EngineConfig,
        model: Transformer,
        create_arena: ArenaFactory,
        *,
        max_tokens: int,
        max_slots: int,
        max_samples: int,
    ) -> None:
        self.model, self.eps = model, model.spec.norm_eps
        self.device, self.dtype = config.device, config.dtype
        self.pdl = supported(config.device)
        self.single_rank, self.is_rank_0 = config.world_size == 1, config.rank == 0
        self.blocks, self.padding_ids = model.blocks, padding_ids(model)
        block, dim = self.blocks[0], model.spec.dim
        self.attention = CudaAttention(config, model, block, max_slots)
        self._adjusts_qkv = block.wqkv.bias is not None or block.q_norm is not None
        self.quantized = isinstance(weight_of(block.wqkv), QuantizedWeight)
        self._projects_value = not any(
            isinstance(weight_of(layer), Int4Weight) for each in self.blocks for layer in each.linears
        )
        layers: list[nn.Module] = [block.wqkv, block.wo, *block.feed_forwards[0]]
        numels = [weight_of(layer).shape.numel() for layer in layers]
        architecture = model.spec.architecture
        self._gelu, self._logit_softcap = architecture.uses_gelu, architecture.logit_softcap
        self._embedding_scale = float(torch.tensor(architecture.embedding_scale, dtype=config.dtype))
        # Our GEMM works on whole blocks of tokens, so buffers have room for the padding.
        padded_samples = token_block(max_samples)
        padded_tokens = max(FUSED_TOKENS, padded_samples, max_tokens)
        scaled = None
        has_fp8 = any(ScaledProducts.takes(weight_of(layer)) for layer in layers)
        if has_fp8 and ScaledProducts.supported(self.device, self.dtype):
            scaled = ScaledProducts(self.device, padded_tokens, max(weight_of(layer).shape[1] for layer in layers))
        self.linear = Linear(config, self.eps, max(numels) if self.quantized else 0, gelu=self._gelu, scaled=scaled)
        self.collectives = Collectives.create(
            create_arena, world_size=config.world_size, max_tokens=padded_tokens, dim=dim, max_samples=padded_samples,
            columns=model.output.width, dtype=self.dtype, pdl=self.pdl,
        )  # fmt: skip
        self.experts = CudaExperts(config, model, max_tokens) if architecture.experts else None
        self.residual = ResidualStream(config, model, self.linear, self.collectives, padded_tokens)
        heads_dim = block.heads * block.head_dim
        self.qkv = self._buffer(padded_tokens, (block.heads + 2 * block.kv_heads) * block.head_dim)
        self.attended = self._buffer(padded_tokens, heads_dim)
        dense_tokens = padded_tokens if self.experts is None else 0
        self.gate_up, self.gated = self._buffer(dense_tokens, 2 * block.ffn), self._buffer(dense_tokens, block.ffn)
        # Of the sampled positions: the last layer's residual stream and attention, and the output matrix's input.
        self.last_h, self.last_attended = self._buffer(padded_samples, dim), self._buffer(padded_samples, heads_dim)
        self.final = self._buffer(padded_samples, dim)
        all_columns = self.single_rank or (self.collectives is not None and self.is_rank_0)
        columns = model.spec.vocab_size if all_columns else model.output.output_size_per_partition
        self.logits = self._buffer(padded_samples, columns, dtype=torch.float32)
        # Where the ranks' columns are joined if they share no memory, at an address that outlives the step.
        joined = 0 if all_columns else model.output.width * config.world_size
        self.joined_logits = self._buffer(padded_samples if joined else 0, joined, dtype=torch.float32)
        self.ids = torch.zeros(max_samples, dtype=torch.int32, device=self.device)
        # Partial sums of squares, at most one per 16 columns. Two buffers: one is read while the other is written.
        self.squares = [self._buffer(-(-dim // 16), FUSED_TOKENS, dtype=torch.float32) for _ in range(2)]

    def _buffer(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def run(self, shape: BatchShape, inputs: StepInputs, state: BatchState) -> None:
        """Compute the step's tokens, sample, and advance the rows."""
        collectives = self.collectives
        if collectives is not None:
            collectives.begin_step()
        verify = inputs.verify
        if verify is not None:
            place_tokens(
                inputs.chunk_rows, verify.offsets, verify.drafts, state.last_tokens, state.positions,
                inputs.chunk_tokens, inputs.chunk_positions, inputs.sample_positions, pdl=self.pdl,
            )  # fmt: skip
        fused = self._has_fused_path and shape.num_tokens <= FUSED_TOKENS
        if shape.num_slots:
            self.attention.split_contexts(shape, inputs, state)
        if fused:
            self._forward_fused(shape, inputs, state)
        else:
            self._forward_plain(shape, inputs, state)
        logits = self._logits(inputs)
        num_samples = inputs.sample_rows.shape[0]
        ids = self.ids[:num_samples]
        if self.is_rank_0:
            if self._logit_softcap is not None:
                pointwise.cap_logits(logits, self._logit_softcap, pdl=self.pdl)
            if self.padding_ids is not None:
                logits.index_fill_(1, self.padding_ids, -math.inf)
            sample(
                logits, inputs.sample_rows, inputs.sample_positions, state.positions, state.temperatures, state.top_ps,
                state.seeds, ids if collectives is None else collectives.ids[:num_samples], pdl=self.pdl,
            )  # fmt: skip
        if collectives is not None:
            collectives.broadcast_ids(ids)
        else:
            tensor_parallel.broadcast(ids)
        epoch, count = (None, 0) if collectives is None else (collectives.epoch, collectives.count)
        if verify is not None:
            accept_drafts(
                ids, verify.drafts, verify.runs, state.last_tokens, state.positions, epoch=epoch, collectives=count,
                pdl=self.pdl,
            )  # fmt: skip
            return
        pointwise.advance(
            ids, inputs.sample_rows, inputs.sample_positions, state.last_tokens, state.positions, epoch=epoch,
            collectives=count, pdl=self.pdl,
        )  # fmt: skip

    def _forward_fused(self, shape: BatchShape, inputs: StepInputs, state: BatchState) -> None:
        """All layers on the fused path; leaves the normalized hidden states of the samples in `final`."""
        residual, blocks, tokens, one = self.residual, self.blocks, shape.num_tokens, shape.num_tokens == 1
        bm = token_block(tokens)
        squares, spare = self._squares(0, bm), self._squares(1, bm)
        hidden_states.embed(
            self.model.tok_embeddings.weight, inputs.slot_rows, state.last_tokens, inputs.chunk_tokens, residual.h,
            tokens, gain=blocks[0].attention_norm.weight, scaled=None if one else residual.x,
            squares=None if one else squares.sums,
            scale=self._embedding_scale, pdl=self.pdl,
        )  # fmt: skip
        for index, block in enumerate(blocks):
            next_norm = blocks[index + 1].attention_norm if index + 1 < len(blocks) else self.model.norm
            if one:
                deferred = self._attend_one(index, shape, block, inputs, state)
                residual.add_gemv(self.attended, block.wo, deferred)
                self.linear.gemv(residual.h, block.w13, self.gated, gain=block.ffn_norm.weight, kind=GATED)
                residual.add_gemv(self.gated, block.w2)
                continue
            self.linear.small_gemm(residual.x, block.wqkv, self.qkv, bm, norm=squares)
            self._finish_qkv(block, tokens)
            self.attention.attend(index, shape, inputs, state, self.qkv, self.attended)
            spare = residual.add_small_gemm(
                self.attended, block.wo, bm, tokens, block.ffn_norm.weight, spare, residual.h
            )
            self.linear.small_gemm(residual.x, block.w13, self.gated, bm, kind=GATED, norm=spare)
            squares = residual.add_small_gemm(self.gated, block.w2, bm, tokens, next_norm.weight, squares, residual.h)
        self._final_norm(inputs)

    def _forward_plain(self, shape: BatchShape, inputs: StepInputs, state: BatchState) -> None:
        """All layers on the plain path; leaves the normalized hidden states of the samples in `final`."""
        residual, tokens = self.residual, shape.num_tokens
        h, x, qkv, attended = residual.h[:tokens], residual.x[:tokens], self.qkv[:tokens], self.attended[:tokens]
        gated = self.gated[:tokens]
        hidden_states.embed(
            self.model.tok_embeddings.weight, inputs.slot_rows, state.last_tokens, inputs.chunk_tokens, h, tokens,
            scale=self._embedding_scale, pdl=self.pdl,
        )  # fmt: skip
        blocks = self.blocks
        hidden_states.norm(h, blocks[0].attention_norm.weight, x, self.eps, tokens, pdl=self.pdl)
        for index, block in enumerate(blocks):
            next_norm = blocks[index + 1].attention_norm if index + 1 < len(blocks) else None
            # In the last layer and after it, the residual stream is also read by others than the next sum.
            whole = index + 2 >= len(blocks)
            self.linear.gemm(x, block.wqkv, qkv)
            self._finish_qkv(block, tokens)
            self.attention.attend(index, shape, inputs, state, self.qkv, self.attended)
            if next_norm is None and self._can_prune_last_layer(shape, inputs):
                self._pruned_last_layer(block, inputs)
                return
            residual.add_gemm(attended, block.wo, block.ffn_norm, block.post_attention_norm, whole=False)
            if self.experts is not None:
                self.experts.run(index, x, residual.partial(tokens))
                residual.add_partial(tokens, next_norm, block.post_ffn_norm)
                continue
            if block.w13.bias is None and self.linear.is_scaled(block.w2, tokens):
                self.linear.gemm(x, block.w13, self.gate_up[:tokens])
                residual.add_gemm(
                    self.gate_up[:tokens], block.w2, next_norm, block.post_ffn_norm, gated=True, whole=whole
                )
                continue
            self._gated_product(block, x, gated)
            residual.add_gemm(gated, block.w2, next_norm, block.post_ffn_norm, whole=whole)
        self._final_norm(inputs)

    def _gated_product(self, block: Block, x: Tensor, gated: Tensor) -> None:
        """gated [tokens, ffn] = activation(gate) · up of x [tokens, dim], on the plain path."""
        tokens = x.shape[0]
        if self.model.adds_products_directly or block.w13.bias is not None or tokens > FUSED_TOKENS:
            gate_up = self.gate_up[:tokens]
            self.linear.gemm(x, block.w13, gate_up)
            pointwise.gate_mul(gate_up, gated, tokens, bias=block.w13.bias, gelu=self._gelu, pdl=self.pdl)
        elif tokens == 1:
            self.linear.gemv(x, block.w13, gated, kind=GATED)
        else:
            self.linear.small_gemm(padded(x), block.w13, padded(gated), token_block(tokens), kind=GATED)

    def _can_prune_last_layer(self, shape: BatchShape, inputs: StepInputs) -> bool:
        """Whether the samples of this step, but not its tokens, are few enough for the fused path."""
        return self._has_fused_path and inputs.sample_rows.shape[0] <= FUSED_TOKENS < shape.num_tokens

    def _pruned_last_layer(self, block: Block, inputs: StepInputs) -> None:
        """The last layer after attention, on the fused path and only for the sampled positions."""
        residual, sources, h = self.residual, inputs.sample_sources, self.last_h
        count = sources.shape[0]
        bm = token_block(count)
        hidden_states.gather(residual.h, self.attended, sources, h, self.last_attended, pdl=self.pdl)
        squares = residual.add_small_gemm(
            self.last_attended, block.wo, bm, count, block.ffn_norm.weight, self._squares(0, bm), h
        )
        self.linear.small_gemm(residual.x, block.w13, self.gated, bm, kind=GATED, norm=squares)
        residual.add_small_gemm(self.gated, block.w2, bm, count, self.model.norm.weight, self._squares(1, bm), h)
        hidden_states.norm(h, self.model.norm.weight, self.final, self.eps, count, pdl=self.pdl)

    def _squares(self, index: int, bm: int) -> PartialSquares:
        """One of the two buffers as [parts, bm]; the embedding writes a single part."""
        sums = self.squares[index].view(-1)
        return PartialSquares(sums[: bm * (sums.numel() // bm)].view(-1, bm), 1)

    @property
    def _has_fused_path(self) -> bool:
        return self.model.adds_products_directly and (self.single_rank or self.collectives is not None)

    @property
    def _defers_value(self) -> bool:
        """Whether a single token defers its value (`DeferredValue`): no 4 bits, no scaled cache, qkv as multiplied."""
        return self._projects_value and self.attention.stores_elements and not self._adjusts_qkv

    def _attend_one(
        self, layer: int, shape: BatchShape, block: Block, inputs: StepInputs, state: BatchState
    ) -> DeferredValue | None:
        """qkv projection and attention of a single token, into `attended`. Returns the term that is yet to be added."""
        gain, weight, attention = block.attention_norm.weight, weight_of(block.wqkv), self.attention
        h = self.residual.h
        if not (self._defers_value and isinstance(weight, Tensor | EightBitWeight)):
            self.linear.gemv(h, block.wqkv, self.qkv, gain=gain)
            self._finish_qkv(block, 1)
            attention.attend(layer, shape, inputs, state, self.qkv, self.attended)
            return None
        self.linear.gemv(h, block.wqkv, self.qkv, gain=gain, num_rows=attention.num_qk_rows)
        return attention.attend_and_project_value(layer, inputs, state, h, gain, weight, self.qkv, self.attended)

    def _finish_qkv(self, block: Block, tokens: int) -> None:
        """Bias of qkv, norms of its query and key heads; no launch for a model that has neither."""
        if self._adjusts_qkv:
            bias_and_norm(
                self.qkv, tokens, heads=block.heads, kv_heads=block.kv_heads, bias=block.wqkv.bias,
                q_gain=None if block.q_norm is None else block.q_norm.weight,
                k_gain=None if block.k_norm is None else block.k_norm.weight, eps=self.eps, pdl=self.pdl,
            )  # fmt: skip

    def _final_norm(self, inputs: StepInputs) -> None:
        """`final` = the model's last norm at the sampled positions."""
        hidden_states.norm(
            self.residual.h, self.model.norm.weight, self.final, self.eps, inputs.sample_sources.shape[0],
            sources=inputs.sample_sources, pdl=self.pdl,
        )  # fmt: skip

    def _logits(self, inputs: StepInputs) -> Tensor:
        """float32 [samples, vocab] of `final`. With collectives they are valid on rank 0 only."""
        count, output = inputs.sample_rows.shape[0], self.model.output
        columns = weight_of(output).shape[0]
        local = self.logits if self.collectives is None else self.collectives.local_logits(token_block(count), columns)
        if count == 1:
            self.linear.gemv(self.final, output, local)
        elif token_block(count) <= FUSED_TOKENS:
            self.linear.small_gemm(self.final, output, local, token_block(count))
        else:
            local[:count] = F.linear(self.final[:count], output.weight).float()
        if self.collectives is not None:
            self.collectives.gather_logits(self.logits, count)
            return self.logits[:count]
        if self.single_rank:
            return self.logits[:count]
        padded = F.pad(self.logits[:count, :columns], (0, output.width - columns))
        return tensor_parallel.gather_columns(padded, output.vocab, self.joined_logits[:count])

    def sampled_logits(self, count: int) -> Tensor:
        """float32 [count, vocab] of the last step's samples, as they were before sampling; valid on rank 0."""
        joined = self.joined_logits[:count, : self.model.output.vocab]
        return joined if joined.numel() else self.logits[:count]
