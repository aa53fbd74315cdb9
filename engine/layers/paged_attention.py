"""Attention over paged keys and values in plain torch: what the CPU runs, and what every kernel is compared with.

Per layer, keys and values are [pages, PAGE, kv heads, head_dim]. A step's tokens come as segments, one a row: `length`
new positions behind `start` old ones. It knows pages and positions, and neither rows nor requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_SLICES = 6  # more pieces than this are cheaper to copy together first


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` tokens of the flat batch, at positions [start, start + length) of a row with these pages."""

    page_ids: Sequence[int]
    start: int
    length: int


class PagedKV:
    """The storage of all layers, not initialised: on a CPU the machine hands it out as it is first written."""

    def __init__(
        self, num_layers: int, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (num_pages, page_size, num_kv_heads, head_dim)
        self.page_size = page_size
        self.k = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.v = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]


class PagedAttention:
    """One step's attention. Writes all of the step's keys and values of a layer, then attends segment by segment."""

    def __init__(self, kv: PagedKV, segments: Sequence[Segment], device: torch.device) -> None:
        self._kv, self._segments = kv, segments
        page = kv.page_size
        slots = [
            segment.page_ids[position // page] * page + position % page
            for segment in segments
            for position in range(segment.start, segment.start + segment.length)
        ]
        self._slots = torch.tensor(slots, device=device)
        self._past = [_KeyRange(segment, page, device) for segment in segments]
        self._masks = [_causal_mask(segment, device) for segment in segments]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._kv.k[layer].flatten(0, 1), self._kv.v[layer].flatten(0, 1)
        keys.index_copy_(0, self._slots, k.to(keys.dtype))
        values.index_copy_(0, self._slots, v.to(values.dtype))
        out, scaled = torch.empty_like(q), q * q.shape[-1] ** -0.5
        at = 0
        for segment, past, mask in zip(self._segments, self._past, self._masks, strict=True):
            end = at + segment.length
            if mask is None:
                out[at] = attend_single_query(scaled[at], past.slices(keys), past.slices(values))
            else:
                out[at:end] = attend(q[at:end], past.gather(keys), past.gather(values), mask)
            at = end
        return out.flatten(1)


class DenseAttention:
    """Causal attention of one sequence over itself, nothing kept: all logits of a text at once."""

    def __init__(self, length: int, device: torch.device) -> None:
        self._mask = _causal_mask(Segment((), 0, length), device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self._mask).flatten(1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [n, heads, D], k and v [L, kv heads, D], mask [n, L] (True: may see) -> [n, heads, D].

    The heads that share a key head are laid out as further queries of it, so that nothing is repeated in memory.
    """
    n, heads, dim = q.shape
    kv_heads = k.shape[1]
    share = heads // kv_heads
    queries = q.view(n, kv_heads, share, dim).permute(1, 2, 0, 3).reshape(1, kv_heads, share * n, dim)
    wide = None if mask is None else mask.repeat(share, 1)
    out = F.scaled_dot_product_attention(
        queries, k.transpose(0, 1).unsqueeze(0), v.transpose(0, 1).unsqueeze(0), attn_mask=wide
    )
    return out.view(kv_heads, share, n, dim).permute(2, 0, 1, 3).reshape(n, heads, dim)


def attend_single_query(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """One query, scaled already, over keys and values in several pieces, read where they lie: q [heads, D] -> same."""
    kv_heads, dim = keys[0].shape[1:]
    queries = q.view(kv_heads, -1, dim)
    if len(keys) == 1:
        weights = torch.softmax(torch.bmm(queries, keys[0].permute(1, 2, 0)), dim=-1, dtype=torch.float32)
        return torch.bmm(weights.to(q.dtype), values[0].transpose(0, 1)).view(-1, dim)
    scores = [torch.bmm(queries, piece.permute(1, 2, 0)) for piece in keys]
    weights = torch.softmax(torch.cat(scores, dim=-1), dim=-1, dtype=torch.float32).to(q.dtype)
    parts = weights.split_with_sizes([len(piece) for piece in values], dim=-1)
    out = torch.bmm(parts[0], values[0].transpose(0, 1))
    for part, piece in zip(parts[1:], values[1:], strict=True):
        out = torch.baddbmm(out, part, piece.transpose(0, 1))
    return out.view(-1, dim)


class _KeyRange:
    """Where a row's keys lie. Pages that lie side by side make one piece, which is read without a copy."""

    def __init__(self, segment: Segment, page: int, device: torch.device) -> None:
        self._slices: list[slice] = []
        self._slots: Tensor | None = None
        end = segment.start + segment.length
        for index in range(-(-end // page)):
            first = segment.page_ids[index] * page
            last = first + min(page, end - index * page)
            if self._slices and self._slices[-1].stop == first:
                first = self._slices.pop().start
            self._slices.append(slice(first, last))
        if len(self._slices) > (_MAX_SLICES if segment.length == 1 else 1):
            slots = [torch.arange(piece.start, piece.stop, device=device) for piece in self._slices]
            self._slots = torch.cat(slots)

    def gather(self, stored: Tensor) -> Tensor:
        return stored[self._slices[0]] if self._slots is None else stored.index_select(0, self._slots)

    def slices(self, stored: Tensor) -> list[Tensor]:
        if self._slots is not None:
            return [stored.index_select(0, self._slots)]
        return [stored[piece] for piece in self._slices]


def _causal_mask(segment: Segment, device: torch.device) -> Tensor | None:
    if segment.length == 1:
        return None
    new = torch.arange(segment.start, segment.start + segment.length, device=device)
    return new.unsqueeze(1) >= torch.arange(segment.start + segment.length, device=device)
