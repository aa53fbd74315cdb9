"""Attention over a paged KV cache in plain torch: what the CPU runs, and the reference for the kernels.

It knows pages and positions, and neither rows nor requests. Shapes: T tokens of the step, n tokens of one segment, L
keys that they may see, D the head size. A slot is an index into a layer's cache seen as [num_pages * page_size, ...].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_SLICES = 6  # beyond this, one gather is cheaper than a product for each slice


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's part of the step: `length` consecutive tokens of the flat batch, the first at position `start`.

    `page_ids` are the sequence's pages, in order. Its `start` earlier tokens are in them already.
    """

    page_ids: Sequence[int]
    start: int
    length: int


class PagedKV:
    """Keys and values of all layers, `k[layer]` and `v[layer]`: [num_pages, page_size, num_kv_heads, D].

    Uninitialized, so on a CPU the operating system commits memory only as it is written.
    """

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_pages, page_size, num_kv_heads, head_dim)
        self.page_size = page_size
        self.k = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.v = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]


class PagedAttention:
    """Attention of one step over all its segments; implements `transformer.Attention`.

    A layer's new keys and values are all written before the first segment attends.
    """

    def __init__(self, kv: PagedKV, segments: Sequence[Segment], device: torch.device) -> None:
        self._kv, self._segments = kv, segments
        size = kv.page_size
        slots = [
            segment.page_ids[position // size] * size + position % size
            for segment in segments
            for position in range(segment.start, segment.start + segment.length)
        ]
        self._slots = torch.tensor(slots, device=device)
        self._ranges = [_KeyRange(segment, size, device) for segment in segments]
        self._masks = [_causal_mask(segment, device) for segment in segments]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `transformer.Attention`."""
        keys, values = self._kv.k[layer].flatten(0, 1), self._kv.v[layer].flatten(0, 1)
        keys.index_copy_(0, self._slots, k.to(keys.dtype))
        values.index_copy_(0, self._slots, v.to(values.dtype))
        out, scaled = torch.empty_like(q), q * q.shape[-1] ** -0.5
        begin = 0
        for segment, key_range, mask in zip(self._segments, self._ranges, self._masks, strict=True):
            end = begin + segment.length
            if mask is None:
                out[begin] = attend_single_query(scaled[begin], key_range.slices(keys), key_range.slices(values))
            else:
                out[begin:end] = attend(q[begin:end], key_range.gather(keys), key_range.gather(values), mask)
            begin = end
        return out.flatten(1)


class DenseAttention:
    """Causal attention of one sequence of `length` tokens over itself, without a KV cache."""

    def __init__(self, length: int, device: torch.device) -> None:
        self._mask = _causal_mask(Segment((), 0, length), device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `transformer.Attention`."""
        return attend(q, k, v, self._mask).flatten(1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [n, heads, D], k and v [L, kv_heads, D], bool mask [n, L] (True: attend) -> [n, heads, D].

    Query heads that share a key/value head become further queries of it, so keys and values are not repeated.
    """
    n, heads, dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    queries = q.view(n, kv_heads, group, dim).permute(1, 2, 0, 3).reshape(1, kv_heads, group * n, dim)
    repeated_mask = None if mask is None else mask.repeat(group, 1)
    out = F.scaled_dot_product_attention(
        queries, k.transpose(0, 1).unsqueeze(0), v.transpose(0, 1).unsqueeze(0), attn_mask=repeated_mask
    )
    return out.view(kv_heads, group, n, dim).permute(2, 0, 1, 3).reshape(n, heads, dim)


def attend_single_query(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """A decode token's attention: q [heads, D], already scaled, -> [heads, D].

    `keys` and `values` are slices [*, kv_heads, D] of the sequence in order, which are not copied together.
    """
    kv_heads, dim = keys[0].shape[1:]
    queries = q.view(kv_heads, -1, dim)
    if len(keys) == 1:
        weights = torch.softmax(torch.bmm(queries, keys[0].permute(1, 2, 0)), dim=-1, dtype=torch.float32)
        return torch.bmm(weights.to(q.dtype), values[0].transpose(0, 1)).view(-1, dim)
    scores = [torch.bmm(queries, k.permute(1, 2, 0)) for k in keys]
    weights = torch.softmax(torch.cat(scores, dim=-1), dim=-1, dtype=torch.float32).to(q.dtype)
    split_weights = weights.split_with_sizes([len(v) for v in values], dim=-1)
    out = torch.bmm(split_weights[0], values[0].transpose(0, 1))
    for w, v in zip(split_weights[1:], values[1:], strict=True):
        out = torch.baddbmm(out, w, v.transpose(0, 1))
    return out.view(-1, dim)


class _KeyRange:
    """The slots of a segment's keys. Adjacent pages form one slice, which is read without a copy."""

    def __init__(self, segment: Segment, page_size: int, device: torch.device) -> None:
        self._slices: list[slice] = []
        self._slots: Tensor | None = None
        end = segment.start + segment.length
        for index in range(-(-end // page_size)):
            first = segment.page_ids[index] * page_size
            last = first + min(page_size, end - index * page_size)
            if self._slices and self._slices[-1].stop == first:
                first = self._slices.pop().start
            self._slices.append(slice(first, last))
        if len(self._slices) > (_MAX_SLICES if segment.length == 1 else 1):
            slots = [torch.arange(each.start, each.stop, device=device) for each in self._slices]
            self._slots = torch.cat(slots)

    def gather(self, cache: Tensor) -> Tensor:
        """All keys (or values) in one tensor: cache [slots, kv_heads, D] -> [L, kv_heads, D]."""
        return cache[self._slices[0]] if self._slots is None else cache.index_select(0, self._slots)

    def slices(self, cache: Tensor) -> list[Tensor]:
        """The same as a few tensors, views of the cache where there are few slices."""
        if self._slots is not None:
            return [cache.index_select(0, self._slots)]
        return [cache[each] for each in self._slices]


def _causal_mask(segment: Segment, device: torch.device) -> Tensor | None:
    """[n, L], True where a token may attend; None for one token, which attends to everything."""
    if segment.length == 1:
        return None
    new = torch.arange(segment.start, segment.start + segment.length, device=device)
    return new.unsqueeze(1) >= torch.arange(segment.start + segment.length, device=device)
