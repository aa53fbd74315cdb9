"""One step's forward out of our kernels: from token ids to sampled ids, all in buffers that never move.

The same launches, in the same order, whatever the values in the buffers: so a step of a given size can be recorded as a
CUDA graph and replayed. It knows layers, slots and chunks; which requests they are is the runner's business. Runs on a
CPU too, in Triton's interpreter, for the tests.

A step's tokens lie in one line: first a place for each slot (a row that decodes one token), then the chunks' tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from engine import parallel
from engine.config import EngineConfig
from engine.cuda_sums import Meet, Sums
from engine.kernels import pointwise
from engine.kernels.chunk_attention import chunk_attention, rotate_and_store
from engine.kernels.decode_attention import Cut, decode_attention
from engine.kernels.gemv import Joined, Push, gemv
from engine.kernels.matmul import PLAIN, RESIDUAL, SILU, Scratch, Squares, matmul
from engine.kernels.narrow_gemv import narrow_gemv
from engine.kernels.narrow_kv import allocate_scales
from engine.kernels.one_row import one_row
from engine.kernels.pdl import supported
from engine.kernels.products import (
    FUSED_TOKENS,
    fitted,
    gemv_cut,
    narrow_cut,
    narrow_gemv_cut,
    small_cut,
    token_block,
)
from engine.kernels.sampling import sample
from engine.kernels.unfold import unfold
from engine.model import Block, RMSNorm, Transformer
from engine.quantize import Packed

H100_SHARED = 232448  # bytes of shared memory that one program may have
SMALLEST_SHARED = 99 << 10
QUERY_BLOCK = 128  # prompt tokens that one program of the chunk attention takes


@dataclass(frozen=True, slots=True)
class Size:
    """A step's shape: slots that decode, prompt tokens; `cut`: contexts differ so much that long ones are split."""

    slots: int
    tokens: int
    cut: bool = False

    @property
    def total(self) -> int:
        return self.slots + self.tokens


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the host writes before a step, views of one buffer. -1 names no row."""

    slot_rows: Tensor
    sample_rows: Tensor
    sample_sources: Tensor  # which of the step's tokens
    sample_positions: Tensor  # of the token to be sampled; -1: one behind where its row is
    chunk_tokens: Tensor
    chunk_rows: Tensor
    chunk_positions: Tensor
    blocks: Tensor  # [n, 4]: row, first token, tokens, first position


@dataclass(frozen=True, slots=True)
class Rows:
    """The persistent batch, on the device; one row more than there are requests, for nobody."""

    last_tokens: Tensor
    positions: Tensor
    temperatures: Tensor
    top_ps: Tensor
    seeds: Tensor
    tables: Tensor

    @staticmethod
    def allocate(rows: int, pages: int, device: torch.device) -> Rows:
        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        return Rows(
            ints(rows), ints(rows), torch.zeros(rows, device=device), torch.ones(rows, device=device), ints(rows, 2),
            ints(rows, -(-pages // 4) * 4),
        )  # fmt: skip


class Step:
    """The buffers, and `run`. `most` is the largest number of tokens that a step may have."""

    def __init__(self, config: EngineConfig, model: Transformer, most: int, samples: int, meet: Meet) -> None:
        self.model, self.eps = model, model.spec.norm_eps
        self.device, self.dtype = config.device, config.dtype
        self.pdl = supported(config.device)
        self.shared = H100_SHARED
        if config.device.type == "cuda":
            properties = torch.cuda.get_device_properties(config.device)
            self.shared = getattr(properties, "shared_memory_per_block_optin", SMALLEST_SHARED)
        self.alone = config.world_size == 1
        self.leads = config.rank == 0
        block = self._blocks()[0]
        self.heads, self.kv_heads, self.head_dim = block.heads, block.kv_heads, block.head_dim
        self.ffn, self.dim = block.ffn, model.spec.dim
        padded = max(FUSED_TOKENS, token_block(samples), most)
        self.h, self.x, self.delta = (self._buffer(padded, self.dim) for _ in range(3))
        self.qkv = self._buffer(padded, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.attended = self._buffer(padded, self.heads * self.head_dim)
        self.gate_up, self.gated = self._buffer(padded, 2 * self.ffn), self._buffer(padded, self.ffn)
        shapes = [_weight(layer).shape for layer in (block.wqkv, block.w13, block.w2)]
        packed = isinstance(_weight(block.wqkv), Packed)
        self.unpacked = self._buffer(max(shape.numel() for shape in shapes) if packed else 0)
        self.final = self._buffer(token_block(samples), self.dim)
        rows, vocabulary = token_block(samples), model.spec.vocab_size
        self.sums = Sums.between(
            meet, ranks=config.world_size, most=padded, dim=self.dim, samples=rows, width=model.output.width,
            dtype=self.dtype, pdl=self.pdl,
        )  # fmt: skip
        whole = self.alone or (self.sums is not None and self.leads)
        columns = vocabulary if whole else model.output.output_size_per_partition
        self.logits = self._buffer(rows, columns, dtype=torch.float32)
        self.ids = torch.zeros(samples, dtype=torch.int32, device=self.device)
        # Partial sums of squares: at most one part for 16 columns.
        self.squares = [self._buffer(-(-self.dim // 16), FUSED_TOKENS, dtype=torch.float32) for _ in range(2)]
        self.scratch = Scratch.allocate(self.device, 1 << 23)
        splits = samples * self.heads * 16
        self.part_out = self._buffer(splits, self.head_dim, dtype=torch.float32)
        self.part_stat = self._buffer(splits, 2, dtype=torch.float32)
        self.counters = torch.zeros(max(samples * self.kv_heads, self.heads), dtype=torch.int32, device=self.device)
        self.share, self.part_own = (self._buffer(self.heads, dtype=torch.float32) for _ in range(2))
        rope = torch.view_as_real(model.rope)
        self.cos, self.sin = rope[..., 0].contiguous(), rope[..., 1].contiguous()
        self.k_cache: list[Tensor] = []
        self.v_cache: list[Tensor] = []
        self.kv_scales: list[Tensor | None] = []  # of the layers' keys and values, if those are int8

    def take_pages(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        """Storage for keys and values of all layers."""
        for _ in self.model.layers:
            self.k_cache.append(torch.empty(shape, dtype=dtype, device=self.device))
            self.v_cache.append(torch.empty(shape, dtype=dtype, device=self.device))
            self.kv_scales.append(allocate_scales(self.k_cache[-1]))

    def drop_pages(self) -> None:
        self.k_cache, self.v_cache, self.kv_scales = [], [], []

    def _buffer(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def _blocks(self) -> list[Block]:
        return [layer for layer in self.model.layers if isinstance(layer, Block)]

    def run(self, size: Size, inputs: Inputs, rows: Rows) -> None:
        """Feed the step's tokens, sample, move the rows on."""
        sums = self.sums
        if sums is not None:
            sums.begin()
        if (self.alone or sums is not None) and size.total <= FUSED_TOKENS:
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
            parallel.broadcast(ids)
        pointwise.advance(
            ids, inputs.sample_rows, inputs.sample_positions, rows.last_tokens, rows.positions,
            epoch=None if sums is None else sums.epoch, sites=0 if sums is None else sums.site, pdl=self.pdl,
        )  # fmt: skip

    def _fused(self, size: Size, inputs: Inputs, rows: Rows) -> None:
        """Few tokens: norms and gate live inside the products, and on one rank the residual sums too."""
        blocks, total, one = self._blocks(), size.total, size.total == 1
        bm = token_block(total)
        squares = Squares(self.squares[0].view(-1)[: bm * (self.squares[0].numel() // bm)].view(-1, bm), 1)
        spare = Squares(self.squares[1].view(-1)[: bm * (self.squares[1].numel() // bm)].view(-1, bm), 1)
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
                self._gemv(self.h, block.w13, self.gated, gain=block.ffn_norm.weight, kind=SILU)
                self._add_one(self.gated, block.w2)
                continue
            self._small(self.x, block.wqkv, self.qkv, bm, norm=squares)
            self._attend(number, size, inputs, rows)
            spare = self._add_few(self.attended, block.wo, bm, total, block.ffn_norm.weight, spare)
            self._small(self.x, block.w13, self.gated, bm, kind=SILU, norm=spare)
            squares = self._add_few(self.gated, block.w2, bm, total, following.weight, squares)
        self._final(inputs)

    def _plain(self, size: Size, inputs: Inputs, rows: Rows) -> None:
        """Many tokens, or several ranks: library products and small kernels between them."""
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
            self._product(x, block.wqkv, qkv)
            self._attend(number, size, inputs, rows)
            self._add_many(attended, block.wo, block.ffn_norm)
            self._product(x, block.w13, gate_up)
            pointwise.silu_mul(gate_up, gated, total, pdl=self.pdl)
            self._add_many(gated, block.w2, following)
        self._final(inputs)

    def _add_one(self, x: Tensor, layer: nn.Module, joined: Joined | None = None) -> None:
        """One row: h += product."""
        if self.sums is None:
            self._gemv(x, layer, self.h, kind=RESIDUAL, joined=joined)
        elif isinstance(_weight(layer), Packed):
            self._gemv(x, layer, self.sums.delta)
            self.sums.join(self.h, self.model.norm.weight, 1)
        else:
            self._gemv(x, layer, self.sums.own, joined=joined, push=self.sums.push)
            self.sums.join_one(self.h[:1])

    def _add_few(self, x: Tensor, layer: nn.Module, bm: int, total: int, gain: Tensor, into: Squares) -> Squares:
        """Up to FUSED_TOKENS: h += product, self.x = h · gain; the sums of squares."""
        if self.sums is None:
            return Squares(into.sums, self._small(x, layer, self.h, bm, gain=gain, into=into))
        self._small(x, layer, self.sums.delta, bm)
        self.sums.join(self.h, gain, total, out=self.x, squares=into.sums)
        return Squares(into.sums, 1)

    def _add_many(self, x: Tensor, layer: nn.Module, norm: RMSNorm | None) -> None:
        """Many: h += product, self.x = norm(h)."""
        total = x.shape[0]
        h, out, gain = self.h[:total], self.x[:total], self.model.norm.weight if norm is None else norm.weight
        if self.sums is not None:
            self._product(x, layer, self.sums.delta[:total])
            self.sums.join(h, gain, total, out=None if norm is None else out, eps=self.eps)
            return
        delta: Tensor | None = None
        if self.alone:
            h.addmm_(x, self._unfolded(layer).T)
        else:
            delta = parallel.all_reduce(self._produced(x, layer))
        if norm is not None or delta is not None:
            pointwise.norm(h, gain, out, self.eps, total, delta=delta, pdl=self.pdl)

    def _produced(self, x: Tensor, layer: nn.Module) -> Tensor:
        delta = self.delta[: x.shape[0]]
        self._product(x, layer, delta)
        return delta

    def _attend_one(self, layer: int, size: Size, block: Block, inputs: Inputs, rows: Rows) -> Joined | None:
        """One row: `attended`, in its two parts where nothing is narrow."""
        gain, weight = block.attention_norm.weight, _weight(block.wqkv)
        if isinstance(weight, Packed) or self.k_cache[layer].dtype != self.dtype:
            self._gemv(self.h, block.wqkv, self.qkv, gain=gain)
            self._attend(layer, size, inputs, rows)
            return None
        cached = (self.heads + self.kv_heads) * self.head_dim  # rows of the queries and keys; the values' are the rest
        self._gemv(self.h, block.wqkv, self.qkv, gain=gain, rows=cached)
        one_row(
            self.qkv, self.h, gain, weight[cached:], self.k_cache[layer], self.v_cache[layer], inputs.slot_rows,
            rows.positions, rows.tables, self.cos, self.sin, self.attended, self.share, self.part_out, self.part_stat,
            self.part_own, self.counters, heads=self.heads, eps=self.eps, cut=self._attention_cut(Size(1, 0)),
            block=1024, pdl=self.pdl,
        )  # fmt: skip
        return Joined(self.share, self.qkv[:, cached:], self.heads // self.kv_heads, self.head_dim)

    def _attend(self, layer: int, size: Size, inputs: Inputs, rows: Rows) -> None:
        """All keys and values of the step's tokens are written before a chunk reads any."""
        k, v, scales = self.k_cache[layer], self.v_cache[layer], self.kv_scales[layer]
        if size.tokens:
            rotate_and_store(
                self.qkv[size.slots :], k, v, inputs.chunk_rows, inputs.chunk_positions, rows.tables, self.cos,
                self.sin, heads=self.heads, scales=scales, pdl=self.pdl,
            )  # fmt: skip
        if size.slots:
            cut = self._attention_cut(size)
            decode_attention(
                self.qkv, k, v, inputs.slot_rows, rows.positions, rows.tables, self.cos, self.sin, self.attended,
                self.part_out, self.part_stat, self.counters, heads=self.heads, cut=cut, scales=scales,
                pdl=self.pdl,
            )  # fmt: skip
        if size.tokens:
            tile = 16 if self.device.type == "cpu" else 64
            chunk_attention(
                self.qkv, k, v, inputs.blocks, rows.tables, self.attended, heads=self.heads,
                block=16 if self.device.type == "cpu" else QUERY_BLOCK, tile=tile, warps=8, scales=scales,
                pdl=self.pdl,
            )  # fmt: skip

    def _attention_cut(self, size: Size) -> Cut:
        """Parts of a context and tile sizes: many programs for few slots, long runs for many."""
        programs = size.slots * self.kv_heads
        if self.device.type == "cpu":
            return Cut(splits=2, tile=16, least=2)
        if size.total == 1:
            return Cut(
                splits=16, tile=16, stages=3, least=4
            )  # with grouped queries too: `one_row` takes them one by one
        if self.heads != self.kv_heads:
            splits = max(2, min(16, triton.next_power_of_2(-(-512 // programs))))
            return Cut(splits=splits, least=4 if programs < 512 else 24)
        if programs < 512:
            return Cut(splits=triton.next_power_of_2(-(-512 // programs)), tile=16, warps=2, stages=3)
        if size.cut:
            return Cut(splits=4, warps=2, lanes=16, least=12)
        return Cut(splits=2 if programs < 1024 else 1, tile=16, warps=2, stages=4, lanes=16)

    def _gemv(
        self,
        x: Tensor,
        layer: nn.Module,
        out: Tensor,
        *,
        gain: Tensor | None = None,
        kind: int = PLAIN,
        joined: Joined | None = None,
        rows: int | None = None,
        push: Push | None = None,
    ) -> None:
        """`rows`: only the first so many of the matrix."""
        weight = _weight(layer)
        if isinstance(weight, Packed):
            height, block, warps = narrow_gemv_cut(kind)
            narrow_gemv(
                x[:1], weight, out[:1], gain=gain, eps=self.eps, silu=kind == SILU, residual=kind == RESIDUAL,
                pdl=self.pdl, rows=height, block=block, warps=warps,
            )  # fmt: skip
            return
        weight = weight[:rows]
        block, warps = gemv_cut(weight.shape[1], kind)
        gemv(
            x[:1], weight, out[:1], gain=gain, eps=self.eps, silu=kind == SILU, residual=kind == RESIDUAL,
            pdl=self.pdl, block=block, warps=warps, two=True, joined=joined, push=push,
        )  # fmt: skip

    def _small(
        self,
        x: Tensor,
        layer: nn.Module,
        out: Tensor,
        bm: int,
        *,
        kind: int = PLAIN,
        norm: Squares | None = None,
        gain: Tensor | None = None,
        into: Squares | None = None,
    ) -> int:
        """With `gain`: out is the residual stream, which becomes h + product, and self.x what the next one reads."""
        weight = _weight(layer)
        kind = RESIDUAL if into is not None else kind
        rows, k = weight.shape
        if isinstance(weight, Packed):
            tiling = narrow_cut(rows, k, kind, bm, weight.bits, self.shared)
        else:
            item = weight.element_size()
            tiling = fitted(small_cut(rows, k, kind, bm, item, bulk=self.pdl), kind, bm, item, self.shared)
        return matmul(
            x, weight, out, tiling, self.scratch, bm=bm, kind=kind, norm=norm, eps=self.eps, gain=gain, scaled=self.x,
            squares_out=None if into is None else into.sums, pdl=self.pdl,
        )  # fmt: skip

    def _product(self, x: Tensor, layer: nn.Module, out: Tensor) -> None:
        tokens = x.shape[0]
        if tokens == 1:
            self._gemv(x, layer, out)
        elif tokens <= FUSED_TOKENS // 2 and not self.alone:
            self._small(self._padded(x), layer, self._padded(out), token_block(tokens))
        else:
            torch.mm(x, self._unfolded(layer).T, out=out)

    def _unfolded(self, layer: nn.Module) -> Tensor:
        """The matrix as the library can multiply by it."""
        weight = _weight(layer)
        if not isinstance(weight, Packed):
            return weight
        whole = self.unpacked[: weight.shape.numel()].view(weight.shape)
        unfold(weight, whole, pdl=self.pdl)
        return whole

    @staticmethod
    def _padded(x: Tensor) -> Tensor:
        """The buffer that x is the head of, as far as a padded product may read or write it."""
        return x.as_strided((token_block(x.shape[0]), x.shape[1]), x.stride())

    def _final(self, inputs: Inputs) -> None:
        pointwise.norm(
            self.h, self.model.norm.weight, self.final, self.eps, inputs.sample_sources.shape[0],
            sources=inputs.sample_sources, pdl=self.pdl,
        )  # fmt: skip

    def _logits(self, inputs: Inputs) -> Tensor:
        count, output = inputs.sample_rows.shape[0], self.model.output
        columns = _weight(output).shape[0]
        mine = self.logits if self.sums is None else self.sums.logits(token_block(count), columns)
        if count == 1:
            self._gemv(self.final, output, mine)
        elif token_block(count) <= FUSED_TOKENS:
            self._small(self.final, output, mine, token_block(count))
        else:
            mine[:count] = F.linear(self.final[:count], self._unfolded(output)).float()
        if self.sums is not None:
            self.sums.collect(self.logits, count)
            return self.logits[:count]
        if self.alone:
            return self.logits[:count]
        local = F.pad(self.logits[:count, :columns], (0, output.width - columns))
        return parallel.gather_columns(local, output.vocab)


def _weight(layer: nn.Module) -> Tensor | Packed:
    packed = getattr(layer, "packed", None)
    if isinstance(packed, Packed):
        return packed
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight
