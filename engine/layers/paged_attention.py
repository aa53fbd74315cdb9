"""Attention over a paged KV cache in plain torch: what the CPU runs, and the reference for the kernels.

It knows pages and positions, and neither rows nor requests. Shapes: T tokens of the step, n tokens of one segment, L
keys that they may see, D the head size. A layer's cache is [num_pages, page_size, kv_heads, D], and its pages need not
be neighbours in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.layers.paged_kv import PagedKV

_MAX_SLICES = 6  # beyond this, one gather is cheaper than a product for each page


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's part of the step: `length` consecutive tokens of the flat batch, the first at position `start`.

    `page_ids` are the sequence's pages, in order. Its `start` earlier tokens are in them already.
    """

    page_ids: Sequence[int]
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """How a layer attends. None: scores scaled by 1 / sqrt(D), not capped, over all earlier tokens.

    `softcap` c turns a score s into c * tanh(s / c). With `window` w, a token sees itself and the w - 1 before it.
    """

    scale: float | None = None
    softcap: float | None = None
    window: int | None = None


PLAIN = AttentionRule()


class PagedAttention:
    """Attention of one step over all its segments; implements `transformer.Attention`.

    A layer's new keys and values are all written before the first segment attends.
    """

    def __init__(self, kv: PagedKV, segments: Sequence[Segment], device: torch.device) -> None:
        self._kv, self._segments, self._device = kv, segments, device
        size = kv.page_size
        positions = [
            (segment.page_ids[position // size], position % size)
            for segment in segments
            for position in range(segment.start, segment.start + segment.length)
        ]
        self._new_pages, self._new_offsets = torch.tensor(positions, device=device).reshape(-1, 2).unbind(1)
        self._views: dict[int | None, list[tuple[Segment, _KeyRange, Tensor | None]]] = {}  # by window

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        """See `transformer.Attention`."""
        keys, values = self._kv.k[layer], self._kv.v[layer]
        keys[self._new_pages, self._new_offsets] = k.to(keys.dtype)
        values[self._new_pages, self._new_offsets] = v.to(values.dtype)
        scale = q.shape[-1] ** -0.5 if rule.scale is None else rule.scale
        out, scaled = torch.empty_like(q), q * scale
        begin = 0
        for segment, key_range, mask in self._seen(rule.window):
            end = begin + segment.length
            if mask is None:
                slices = key_range.slices(keys), key_range.slices(values)
                out[begin] = attend_single_query(scaled[begin], *slices, rule.softcap)
            else:
                out[begin:end] = attend(q[begin:end], key_range.gather(keys), key_range.gather(values), mask, rule)
            begin = end
        return out.flatten(1)

    def _seen(self, window: int | None) -> "list[tuple[Segment, _KeyRange, Tensor | None]]":
        """Each segment with the keys that its tokens see, and the mask over them; made once for each window."""
        if window not in self._views:
            self._views[window] = [
                (
                    segment,
                    _KeyRange(segment, _first_key(segment, window), self._kv.page_size, self._device),
                    _causal_mask(segment, window, self._device),
                )
                for segment in self._segments
            ]
        return self._views[window]


class DenseAttention:
    """Causal attention of one sequence of `length` tokens over itself, without a KV cache."""

    def __init__(self, length: int, device: torch.device) -> None:
        self._segment, self._device = Segment((), 0, length), device
        self._masks: dict[int | None, Tensor | None] = {}  # by window

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        """See `transformer.Attention`."""
        if rule.window not in self._masks:
            self._masks[rule.window] = _causal_mask(self._segment, rule.window, self._device)
        return attend(q, k, v, self._masks[rule.window], rule).flatten(1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rule: AttentionRule = PLAIN) -> Tensor:
    """q [n, heads, D], k and v [L, kv_heads, D], bool mask [n, L] (True: attend) -> [n, heads, D].

    Query heads that share a key/value head become further queries of it, so keys and values are not repeated. The
    mask has the rule's window in it.
    """
    n, heads, dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    queries = q.view(n, kv_heads, group, dim).permute(1, 2, 0, 3).reshape(1, kv_heads, group * n, dim)
    keys, values = k.transpose(0, 1).unsqueeze(0), v.transpose(0, 1).unsqueeze(0)
    repeated_mask = None if mask is None else mask.repeat(group, 1)
    if rule.softcap is None:
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=repeated_mask, scale=rule.scale)
    else:
        scale = dim**-0.5 if rule.scale is None else rule.scale
        scores = _capped(queries * scale @ keys.transpose(-1, -2), rule.softcap)
        if repeated_mask is not None:
            scores = scores.masked_fill(~repeated_mask, -torch.inf)
        out = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ values
    return out.view(kv_heads, group, n, dim).permute(2, 0, 1, 3).reshape(n, heads, dim)


def attend_single_query(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], softcap: float | None = None
) -> Tensor:
    """A decode token's attention: q [heads, D], already scaled, -> [heads, D].

    `keys` and `values` are slices [*, kv_heads, D] of the sequence in order, which are not copied together.
    """
    kv_heads, dim = keys[0].shape[1:]
    queries = q.view(kv_heads, -1, dim)
    parts = [torch.bmm(queries, k.permute(1, 2, 0)) for k in keys]
    scores = _capped(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1), softcap)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    if len(keys) == 1:
        return torch.bmm(weights, values[0].transpose(0, 1)).view(-1, dim)
    split_weights = weights.split_with_sizes([len(v) for v in values], dim=-1)
    out = torch.bmm(split_weights[0], values[0].transpose(0, 1))
    for w, v in zip(split_weights[1:], values[1:], strict=True):
        out = torch.baddbmm(out, w, v.transpose(0, 1))
    return out.view(-1, dim)


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


class _KeyRange:
    """A segment's keys from position `first` on, in the pages of any layer."""

    def __init__(self, segment: Segment, first: int, page_size: int, device: torch.device) -> None:
        end, first_page = segment.start + segment.length, first // page_size
        self._page_ids = list(segment.page_ids[first_page : -(-end // page_size)])
        self._begin, self._end = first - first_page * page_size, end - first_page * page_size
        self._page_size = page_size
        copies = len(self._page_ids) > (_MAX_SLICES if segment.length == 1 else 1)
        self._index = torch.tensor(self._page_ids, device=device) if copies else None

    def gather(self, cache: Tensor) -> Tensor:
        """All keys (or values) in one tensor: cache [pages, page_size, kv_heads, D] -> [L, kv_heads, D]."""
        if self._index is None:
            return cache[self._page_ids[0], self._begin : self._end]
        return cache.index_select(0, self._index).flatten(0, 1)[self._begin : self._end]

    def slices(self, cache: Tensor) -> list[Tensor]:
        """The same as a few tensors, views of the cache where it has few pages."""
        if self._index is not None:
            return [self.gather(cache)]
        size, last = self._page_size, len(self._page_ids) - 1
        return [
            cache[page_id, self._begin if index == 0 else 0 : self._end - index * size if index == last else size]
            for index, page_id in enumerate(self._page_ids)
        ]


def _first_key(segment: Segment, window: int | None) -> int:
    """The first position that any token of the segment sees."""
    return 0 if window is None else max(0, segment.start - window + 1)


def _causal_mask(segment: Segment, window: int | None, device: torch.device) -> Tensor | None:
    """[n, L], True where a token may attend, L positions from `_first_key` on; None for one token, which sees all."""
    if segment.length == 1:
        return None
    end = segment.start + segment.length
    new = torch.arange(segment.start, end, device=device).unsqueeze(1)
    seen = torch.arange(_first_key(segment, window), end, device=device)
    return new >= seen if window is None else (new >= seen) & (new - seen < window)
