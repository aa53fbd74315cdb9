"""Attention kernels against plain torch over scattered pages, for one and for several query heads per kv head."""

from collections.abc import Sequence

import pytest
import torch

from engine.kernels.attention.attention_rules import padded_head
from engine.kernels.attention.chunk_attention import chunk_attention, rotate_and_store
from engine.kernels.attention.decode_attention import decode_attention
from engine.kernels.attention.split_kv import HEADER, ITEM, MAX_SPLITS, SplitConfig, split_kv, work_list
from engine.kernels.pdl import supported
from engine.layers.paged_kv import PagedKV
from engine.layers.quantized_kv import stored_values
from tests.engine.kernels import reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PDL = supported(DEVICE)
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
CLOSE = {"rtol": 2e-2, "atol": 2e-2} if DEVICE.type == "cuda" else {"rtol": 1e-4, "atol": 1e-4}
ONE_STEP = {"rtol": 0.14, "atol": 0.05}  # one step of an 8-bit dtype, for values that round the other way
PAGE, PAGES, DIM, ROWS, CONTEXT = 16, 40, 32, 4, 128


STORAGES = [None, torch.int8, torch.float8_e4m3fn]


class Cache:
    """Random pages, a shuffled page table for each row, rotary tables. The pages are those of one layer of a pool.

    With `storage`, k and v hold what a cache of that dtype gives back; `store` makes that cache and its scales.
    """

    def __init__(self, kv_heads: int, storage: torch.dtype | None = None, dim: int = DIM) -> None:
        generator = torch.Generator().manual_seed(kv_heads)
        shape = (PAGES, PAGE, kv_heads, dim)
        k, v = (torch.randn(shape, generator=generator).to(DEVICE, DTYPE) for _ in range(2))
        if storage is not None:
            k, v = (stored_values(cache, storage) for cache in (k, v))
        self.k, self.v, _ = in_pool(k, v)
        order = torch.randperm(PAGES, generator=generator)[: ROWS * 8].view(ROWS, 8)
        self.tables = order.to(torch.int32).to(DEVICE)
        angle = torch.outer(torch.arange(CONTEXT), 100.0 ** -torch.linspace(0, 1, dim // 2))
        self.cos, self.sin = angle.cos().to(DEVICE), angle.sin().to(DEVICE)

    def store(self, storage: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(k, v, scales) as the kernels take them."""
        if storage != torch.int8:
            return in_pool(self.k.to(storage or DTYPE), self.v.to(storage or DTYPE))
        bits = [(x.float().abs().amax(-1).clamp_min(1e-20) / 127).view(torch.int32) for x in (self.k, self.v)]
        half = [(each + 0x8000) >> 16 & 0xFFFF for each in bits]
        scale = [(each << 16).view(torch.float32).unsqueeze(-1) for each in half]
        k, v = ((x / each).round().to(torch.int8) for x, each in zip((self.k, self.v), scale, strict=True))
        return in_pool(k, v, (half[0] | half[1] << 16).transpose(1, 2))


def block_list(blocks: Sequence[Sequence[int]], splits: Sequence[int]) -> torch.Tensor:
    """The blocks for `chunk_attention`, each with its number of splits."""
    entries = [[*block, split, number] for block, number in zip(blocks, splits, strict=True) for split in range(number)]
    return torch.tensor(entries, dtype=torch.int32, device=DEVICE)


def chunk_partials(heads: int, entries: int, block: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `chunk_attention` keeps of splits, with numbers that would show."""
    lanes = entries * heads * block
    out, stats = (torch.full((lanes, width), torch.nan, device=DEVICE) for width in (padded_head(dim), 2))
    return out, stats, torch.zeros(entries * heads, dtype=torch.int32, device=DEVICE)


def in_pool(
    k: torch.Tensor, v: torch.Tensor, scales: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Keys, values and scales as the middle one of three layers, whose other two hold numbers that would show."""
    pages, page_size, kv_heads, dim = k.shape
    kv = PagedKV(3, pages, page_size, kv_heads, dim, k.dtype, DEVICE)
    kv.pages.view(torch.uint8).fill_(0x7F)  # NaN in float32, bfloat16 and fp8
    kv.k[1].copy_(k)
    kv.v[1].copy_(v)
    layer_scales = kv.layer_scales[1]
    if kv.scales is not None and layer_scales is not None and scales is not None:
        kv.scales.fill_(0x7FFF7FFF)
        layer_scales.copy_(scales)
    return kv.k[1], kv.v[1], layer_scales


def dequantized(cache: torch.Tensor, scales: torch.Tensor | None, value: bool) -> torch.Tensor:
    """A cache as float32."""
    if scales is None:
        return cache.float()
    scale = (scales & -65536 if value else scales << 16).view(torch.float32)
    return cache.float() * scale.transpose(1, 2).unsqueeze(-1)


def list_splits(
    slot_rows: torch.Tensor,
    positions: torch.Tensor,
    config: SplitConfig,
    *,
    window: int | None = None,
    prefixes: torch.Tensor | None = None,
) -> torch.Tensor:
    """The work list, complete: in a step other kernels run between the one that writes it and attention."""
    work = work_list(config.max_work_items(slot_rows.shape[0]), DEVICE)
    split_kv(slot_rows, positions, work, config=config, window=window, prefixes=prefixes, pdl=PDL)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return work


def qkv(tokens: int, heads: int, kv_heads: int, dim: int = DIM) -> torch.Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randn(tokens, (heads + 2 * kv_heads) * dim, generator=generator).to(DEVICE, DTYPE)


@pytest.mark.parametrize(("target", "min_tiles", "lanes"), [(1, 1, None), (9, 1, None), (9, 2, None), (3, 1, 16)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2)])
@pytest.mark.parametrize("storage", STORAGES)
def test_decode(
    heads: int,
    kv_heads: int,
    target: int,
    min_tiles: int,
    lanes: int | None,
    storage: torch.dtype | None,
) -> None:
    ours, theirs = (Cache(kv_heads, storage) for _ in range(2))
    k, v, scales = ours.store(storage)
    rows = [2, -1, 0, 3]
    positions = torch.tensor([16, 5, 90, 0], dtype=torch.int32, device=DEVICE)
    new = qkv(4, heads, kv_heads)
    out = torch.full((4, heads * DIM), torch.nan, dtype=DTYPE, device=DEVICE)
    counters = torch.zeros(4 * kv_heads, dtype=torch.int32, device=DEVICE)
    slot_rows = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
    config = SplitConfig(target, tile_tokens=16, min_tiles=min_tiles, lanes=lanes)
    work, max_splits = list_splits(slot_rows, positions, config), 4 * heads * MAX_SPLITS
    decode_attention(
        new, k, v, work, slot_rows, positions, ours.tables, ours.cos, ours.sin, out,
        torch.empty(max_splits * DIM, device=DEVICE), torch.empty(max_splits * 2, device=DEVICE), counters, heads=heads,
        config=config, scales=scales, pdl=PDL,
    )  # fmt: skip
    for slot, row in enumerate(rows):
        if row >= 0:
            at = int(positions[row])
            expected = reference.attention(
                new[slot : slot + 1], theirs.k, theirs.v, theirs.tables[row], at, theirs.cos, theirs.sin, heads=heads,
                storage=storage,
            )  # fmt: skip
            torch.testing.assert_close(out[slot : slot + 1].float(), expected, **CLOSE)
    torch.testing.assert_close(
        dequantized(k, scales, False), theirs.k.float(), **(CLOSE if storage is None else ONE_STEP)
    )
    torch.testing.assert_close(dequantized(v, scales, True), theirs.v.float(), **({} if storage is None else ONE_STEP))
    assert not counters.any()


@pytest.mark.parametrize(
    ("lengths", "target", "num_splits"),
    [
        ([160, 160, 160, 160], 4, [1, 1, 1, 1]),
        ([160, 160, 160, 160], 8, [2, 2, 2, 2]),
        ([16, 640, 0, 33], 8, [1, 10, 1, 1]),
        ([1600, None, 1, None], 100, [15, 0, 1, 0]),
        ([None, None, 40, None], 4, [1, 0, 3, 0]),
        ([None] * 4, 4, [1, 0, 0, 0]),
    ],
)
def test_contexts_are_split(lengths: list[int | None], target: int, num_splits: list[int]) -> None:
    """Each slot's splits cover its context once, without gaps, and are equally long but for the last."""
    rows = torch.tensor([-1 if length is None else 3 - slot for slot, length in enumerate(lengths)], dtype=torch.int32)
    positions = torch.tensor([length or 0 for length in reversed(lengths)], dtype=torch.int32)
    config = SplitConfig(target, tile_tokens=16)
    work = work_list(config.max_work_items(4), DEVICE).fill_(-9)
    split_kv(rows.to(DEVICE), positions.to(DEVICE), work, config=config, pdl=PDL)
    count, items = int(work[0]), work[HEADER:].view(-1, ITEM).tolist()
    assert count == sum(num_splits)
    assert items[count:] == [[-9] * 4] * (len(items) - count)
    assert count <= len(items)
    for slot, (length, number) in enumerate(zip(lengths, num_splits, strict=True)):
        own_items = [item for item in items[:count] if item[0] == slot]
        assert [item[1] for item in own_items] == list(range(number))
        assert all(item[3] == number for item in own_items)
        tiles = -(-(length or 0) // 16)
        assert all((number - 1) * item[2] < max(tiles, 1) <= max(number * item[2], 1) for item in own_items)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("heads", "kv_heads", "splits"), [(2, 2, (1, 1, 1)), (6, 2, (1, 1, 1)), (2, 2, (3, 8, 1))])
def test_chunks(heads: int, kv_heads: int, splits: tuple[int, int, int], storage: torch.dtype | None) -> None:
    """Two chunks in one launch, one of them in two blocks, one after a cached prefix, and padding at the end.

    The second block has four tiles for its eight splits.
    """
    ours, theirs = (Cache(kv_heads, storage) for _ in range(2))
    k, v, scales = ours.store(storage)
    chunks = [(1, 37, 20), (3, 0, 7)]  # row, start, tokens
    new = qkv(32, heads, kv_heads)
    expected = []
    first = 0
    for row, start, count in chunks:
        part = new[first : first + count]
        expected.append(
            reference.attention(
                part,
                theirs.k,
                theirs.v,
                theirs.tables[row],
                start,
                theirs.cos,
                theirs.sin,
                heads=heads,
                storage=storage,
            )
        )
        first += count
    token_rows = torch.tensor([1] * 20 + [3] * 7 + [-1] * 5, dtype=torch.int32, device=DEVICE)
    token_positions = torch.tensor([*range(37, 57), *range(7), *[0] * 5], dtype=torch.int32, device=DEVICE)
    blocks = block_list(((1, 0, 16, 37), (1, 16, 4, 53), (3, 20, 7, 0), (-1, 0, 0, 0)), (*splits, 1))
    out = torch.zeros(32, heads * DIM, dtype=DTYPE, device=DEVICE)
    partial = chunk_partials(heads, len(blocks), 16, DIM)
    rotate_and_store(
        new, k, v, token_rows, token_positions, ours.tables, ours.cos, ours.sin, heads=heads, scales=scales, pdl=PDL
    )
    for _ in range(2):  # the counters are zero again after the first time
        chunk_attention(
            new, k, v, blocks, ours.tables, out, *partial, heads=heads, block=16, tile=16, scales=scales, pdl=PDL
        )
    assert not partial[2].any()
    torch.testing.assert_close(out[:27].float(), torch.cat(expected), **CLOSE)
    torch.testing.assert_close(
        dequantized(k, scales, False), theirs.k.float(), **(CLOSE if storage is None else ONE_STEP)
    )
    torch.testing.assert_close(dequantized(v, scales, True), theirs.v.float(), **({} if storage is None else ONE_STEP))
