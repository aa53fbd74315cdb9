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
from engine.kernels.gemv import Joined
from engine.kernels.matmul import RESIDUAL, SILU, Squares
from engine.kernels.pdl import supported
from engine.kernels.sampling import sample
from engine.model.quantization import Packed
from engine.model.transformer import Block, RMSNorm, Transformer
from engine.runner.cuda.attention import Attention
from engine.runner.cuda.collectives import Meet, Sums
from engine.runner.cuda.input_batch import Inputs, Rows, Size
from engine.runner.cuda.linear import Products, weight_of


class Step:
    """The buffers, and `run`. `most` is the largest number of tokens that a step may have."""

    def __init__(self, config: EngineConfig, model: Transformer, most: int, samples: int, meet: Meet) -> None:
        self.model, self.eps = model, model.spec.norm_eps
        self.device, self.dtype = config.device, config.dtype
        self.pdl = supported(config.device)
        self.alone, self.leads = config.world_size == 1, config.rank == 0
        block, dim = self._blocks()[0], model.spec.dim
        self.attention = Attention(config, model, block, samples)
        shapes = [weight_of(layer).shape for layer in (block.wqkv, block.w13, block.w2)]
        self.packed = isinstance(weight_of(block.wqkv), Packed)
        self.products = Products(config, self.eps, max(shape.numel() for shape in shapes) if self.packed else 0)
        padded, rows = max(FUSED_TOKENS, token_block(samples), most), token_block(samples)
        self.sums = Sums.between(
            meet, ranks=config.world_size, most=padded, dim=dim, samples=rows, width=model.output.width,
            dtype=self.dtype, pdl=self.pdl,
        )  # fmt: skip
        self.h, self.x = (self._buffer(padded, dim) for _ in range(2))
        self.delta = self._buffer(0 if self.alone or self.sums else padded, dim)
        self.qkv = self._buffer(padded, (block.heads + 2 * block.kv_heads) * block.head_dim)
        self.attended = self._buffer(padded, block.heads * block.head_dim)
        self.gate_up, self.gated = self._buffer(padded, 2 * block.ffn), self._buffer(padded, block.ffn)
        self.final = self._buffer(rows, dim)
        # The last layer's tokens that something is sampled from: residual stream, attention's output.
        self.last_h, self.last_attended = self._buffer(rows, dim), self._buffer(rows, block.heads * block.head_dim)
        whole = self.alone or (self.sums is not None and self.leads)
        columns = model.spec.vocab_size if whole else model.output.output_size_per_partition
        self.logits = self._buffer(rows, columns, dtype=torch.float32)
        self.ids = torch.zeros(samples, dtype=torch.int32, device=self.device)
        # Partial sums of squares: at most one part for 16 columns.
        self.squares = [self._buffer(-(-dim // 16), FUSED_TOKENS, dtype=torch.float32) for _ in range(2)]

    def _buffer(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def _blocks(self) -> list[Block]:
        return [layer for layer in self.model.layers if isinstance(layer, Block)]

    def run(self, size: Size, inputs: Inputs, rows: Rows) -> None:
        """Feed the step's tokens, sample, move the rows on."""
        sums = self.sums
        if sums is not None:
            sums.begin()
        fused = self._ours and size.total <= FUSED_TOKENS
        if size.slots and not (fused and size.total == 1 and self._beside):
            self.attention.share_out(size, inputs, rows)
        if fused:
            self._fused(size, inputs, rows)
        else:
            self._plain(size, inputs, rows)
        logits = self._logits(inputs)
        count = inputs.sample_rows.shape[0]
        ids = self.ids[:count]
        if self.leads:
            sample(
                logits, inputs.sample_rows, inputs.sample_positions, rows.positions, rows.temperatures, rows.top_ps,
                rows.seeds, ids if sums is None else sums.ids[:count], pdl=self.pdl,
            )  # fmt: skip
        if sums is not None:
            sums.spread(ids)
        else:
            tensor_parallel.broadcast(ids)
        pointwise.advance(
            ids, inputs.sample_rows, inputs.sample_positions, rows.last_tokens, rows.positions,
            epoch=None if sums is None else sums.epoch, sites=0 if sums is None else sums.site, pdl=self.pdl,
        )  # fmt: skip

    def _fused(self, size: Size, inputs: Inputs, rows: Rows) -> None:
        """Few tokens: norms and gate live inside the products, and on one rank the residual sums too."""
        blocks, total, one = self._blocks(), size.total, size.total == 1
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
                joined = self._attend_one(number, size, block, inputs, rows)
                self._add_one(self.attended, block.wo, joined)
                self.products.one(self.h, block.w13, self.gated, gain=block.ffn_norm.weight, kind=SILU)
                self._add_one(self.gated, block.w2)
                continue
            self.products.few(self.x, block.wqkv, self.qkv, bm, norm=squares)
            self.attention.attend(number, size, inputs, rows, self.qkv, self.attended)
            spare = self._add_few(self.attended, block.wo, bm, total, block.ffn_norm.weight, spare, self.h)
            self.products.few(self.x, block.w13, self.gated, bm, kind=SILU, norm=spare)
            squares = self._add_few(self.gated, block.w2, bm, total, following.weight, squares, self.h)
        self._final(inputs)

    def _plain(self, size: Size, inputs: Inputs, rows: Rows) -> None:
        """Many tokens, or ranks that share no memory: library products and small kernels between them."""
        total = size.total
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
            self.products.any(x, block.wqkv, qkv)
            self.attention.attend(number, size, inputs, rows, self.qkv, self.attended)
            if following is None and self._ends_small(size, inputs):
                self._end_small(block, inputs)
                return
            self._add_many(attended, block.wo, block.ffn_norm)
            self.products.any(x, block.w13, gate_up)
            pointwise.silu_mul(gate_up, gated, total, pdl=self.pdl)
            self._add_many(gated, block.w2, following)
        self._final(inputs)

    def _ends_small(self, size: Size, inputs: Inputs) -> bool:
        few = inputs.sample_rows.shape[0] <= FUSED_TOKENS < size.total
        return few and self._ours

    def _end_small(self, block: Block, inputs: Inputs) -> None:
        """The rest of the last layer, for the tokens alone that something is sampled from."""
        sources, h = inputs.sample_sources, self.last_h
        count = sources.shape[0]
        bm = token_block(count)
        pointwise.gather(self.h, self.attended, sources, h, self.last_attended, pdl=self.pdl)
        squares = self._add_few(self.last_attended, block.wo, bm, count, block.ffn_norm.weight, self._squares(0, bm), h)
        self.products.few(self.x, block.w13, self.gated, bm, kind=SILU, norm=squares)
        self._add_few(self.gated, block.w2, bm, count, self.model.norm.weight, self._squares(1, bm), h)
        pointwise.norm(h, self.model.norm.weight, self.final, self.eps, count, pdl=self.pdl)

    def _squares(self, which: int, bm: int) -> Squares:
        sums = self.squares[which].view(-1)
        return Squares(sums[: bm * (sums.numel() // bm)].view(-1, bm), 1)

    def _add_one(self, x: Tensor, layer: nn.Module, joined: Joined | None = None) -> None:
        """One row: h += product."""
        if self.sums is None:
            self.products.one(x, layer, self.h, kind=RESIDUAL, joined=joined)
        elif isinstance(weight_of(layer), Packed):
            self.products.one(x, layer, self.sums.delta)
            self.sums.join(self.h, self.model.norm.weight, 1)
        else:
            self.products.one(x, layer, self.sums.own, joined=joined, push=self.sums.push)
            self.sums.join_one(self.h[:1])

    def _add_few(
        self, x: Tensor, layer: nn.Module, bm: int, total: int, gain: Tensor, into: Squares, h: Tensor
    ) -> Squares:
        """Up to FUSED_TOKENS: h += product, self.x = h · gain; the sums of squares."""
        if self.sums is None:
            return Squares(into.sums, self.products.few(x, layer, h, bm, gain=gain, scaled=self.x, into=into))
        self.products.few(x, layer, self.sums.delta, bm)
        self.sums.join(h, gain, total, out=self.x, squares=into.sums)
        return Squares(into.sums, 1)

    def _add_many(self, x: Tensor, layer: nn.Module, norm: RMSNorm | None) -> None:
        """Many: h += product, self.x = norm(h)."""
        total = x.shape[0]
        h, out, gain = self.h[:total], self.x[:total], self.model.norm.weight if norm is None else norm.weight
        if self.sums is not None:
            self.products.any(x, layer, self.sums.delta[:total])
            self.sums.join(h, gain, total, out=None if norm is None else out, eps=self.eps)
            return
        delta: Tensor | None = None
        if self.alone:
            self.products.add(x, layer, h)
        else:
            delta = tensor_parallel.all_reduce(self._produced(x, layer))
        if norm is not None or delta is not None:
            pointwise.norm(h, gain, out, self.eps, total, delta=delta, pdl=self.pdl)

    def _produced(self, x: Tensor, layer: nn.Module) -> Tensor:
        delta = self.delta[: x.shape[0]]
        self.products.any(x, layer, delta)
        return delta

    @property
    def _ours(self) -> bool:
        """Whether a few tokens go through our own products: on one rank, or where ranks share memory."""
        return self.alone or self.sums is not None

    @property
    def _beside(self) -> bool:
        """Whether a lone row's attention runs beside the product of its value: where nothing is narrow."""
        return not self.packed and self.attention.whole

    def _attend_one(self, layer: int, size: Size, block: Block, inputs: Inputs, rows: Rows) -> Joined | None:
        """One row: `attended`, in two parts where nothing is narrow."""
        gain, weight, attention = block.attention_norm.weight, weight_of(block.wqkv), self.attention
        if isinstance(weight, Packed) or not self._beside:
            self.products.one(self.h, block.wqkv, self.qkv, gain=gain)
            attention.attend(layer, size, inputs, rows, self.qkv, self.attended)
            return None
        cached = attention.cached_rows
        self.products.one(self.h, block.wqkv, self.qkv, gain=gain, rows=cached)
        return attention.attend_beside_value(
            layer, inputs, rows, self.h, gain, weight[cached:], self.qkv, self.attended
        )

    def _final(self, inputs: Inputs) -> None:
        pointwise.norm(
            self.h, self.model.norm.weight, self.final, self.eps, inputs.sample_sources.shape[0],
            sources=inputs.sample_sources, pdl=self.pdl,
        )  # fmt: skip

    def _logits(self, inputs: Inputs) -> Tensor:
        count, output = inputs.sample_rows.shape[0], self.model.output
        columns = weight_of(output).shape[0]
        mine = self.logits if self.sums is None else self.sums.logits(token_block(count), columns)
        if count == 1:
            self.products.one(self.final, output, mine)
        elif token_block(count) <= FUSED_TOKENS:
            self.products.few(self.final, output, mine, token_block(count))
        else:
            mine[:count] = F.linear(self.final[:count], output.weight).float()
        if self.sums is not None:
            self.sums.collect(self.logits, count)
            return self.logits[:count]
        if self.alone:
            return self.logits[:count]
        local = F.pad(self.logits[:count, :columns], (0, output.width - columns))
        return tensor_parallel.gather_columns(local, output.vocab)
