"""What families change about attention, in all three attention kernels, against plain torch.

Windows that begin within a tile and at its border, and are longer than the context; softcaps; scales; head sizes that
are no power of two. What lies before a window's first tile is NaN: it must not be read.
"""

import pytest
import torch

from engine.kernels.attention.chunk_attention import chunk_attention, rotate_and_store
from engine.kernels.attention.decode_attention import decode_attention
from engine.kernels.attention.fused_decode import fused_decode_value_proj
from engine.kernels.attention.split_kv import HEADER, ITEM, MAX_SPLITS, SplitConfig
from engine.layers.paged_attention import AttentionRule
from tests.engine.kernels import reference
from tests.engine.kernels.test_attention import (
    CLOSE,
    DEVICE,
    DTYPE,
    PAGE,
    PDL,
    Cache,
    block_list,
    chunk_partials,
    dequantized,
    list_splits,
    qkv,
)
from tests.engine.kernels.test_linear import EPS, random, weights

RULES = {
    "window": (AttentionRule(window=21), 32),
    "window of one": (AttentionRule(window=1), 32),
    "window at a border": (AttentionRule(window=43), 32),
    "long window": (AttentionRule(window=100), 32),
    "head": (AttentionRule(), 24),
    "gemma": (AttentionRule(scale=0.7, softcap=3.0, window=30), 40),
}
# The others differ in numbers only.
FEW = [name if name in ("window", "gemma") else pytest.param(name, marks=pytest.mark.long) for name in RULES]


def poisoned(cache: Cache, row: int, position: int, window: int | None, tile: int) -> Cache:
    """NaN in all whole tiles before the window of a row's token."""
    unseen = max(0, position - (window or 1 << 30) + 1) // tile * tile
    for at in range(unseen):
        for each in (cache.k, cache.v):
            each[cache.tables[row, at // PAGE], at % PAGE] = torch.nan
    return cache


@pytest.mark.parametrize(("heads", "kv_heads", "storage"), [(2, 2, None), (6, 2, None), (2, 1, torch.int8)])
@pytest.mark.parametrize("name", FEW)
def test_decode(name: str, heads: int, kv_heads: int, storage: torch.dtype | None) -> None:
    rule, dim = RULES[name]
    ours, theirs = (Cache(kv_heads, storage, dim) for _ in range(2))
    rows, positions = [2, -1, 0], torch.tensor([33, 5, 90, 0], dtype=torch.int32, device=DEVICE)
    if storage is None:
        poisoned(ours, 2, 90, rule.window, 16)
        poisoned(ours, 0, 33, rule.window, 16)
    k, v, scales = ours.store(storage)
    new = qkv(3, heads, kv_heads, dim)
    out = torch.full((3, heads * dim), torch.nan, dtype=DTYPE, device=DEVICE)
    counters = torch.zeros(3 * kv_heads, dtype=torch.int32, device=DEVICE)
    slot_rows = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
    config = SplitConfig(5, tile_tokens=16)
    work, max_splits = list_splits(slot_rows, positions, config, window=rule.window), 3 * heads * MAX_SPLITS
    decode_attention(
        new, k, v, work, slot_rows, positions, ours.tables, ours.cos, ours.sin, out,
        torch.empty(max_splits * 64, device=DEVICE), torch.empty(max_splits * 2, device=DEVICE), counters, heads=heads,
        config=config, scales=scales, rule=rule, pdl=PDL,
    )  # fmt: skip
    for slot, row in enumerate(rows):
        if row >= 0:
            at = int(positions[row])
            expected = reference.attention(
                new[slot : slot + 1], theirs.k, theirs.v, theirs.tables[row], at, theirs.cos, theirs.sin, heads=heads,
                storage=storage, rule=rule,
            )  # fmt: skip
            torch.testing.assert_close(out[slot : slot + 1].float(), expected, **CLOSE)
            page, offset = ours.tables[row, at // PAGE], at % PAGE
            for cache, value, plain in ((k, False, theirs.k), (v, True, theirs.v)):
                stored = dequantized(cache, scales, value)[page, offset]
                torch.testing.assert_close(stored, plain[page, offset].float(), rtol=0.02, atol=0.02)
    assert not counters.any()


@pytest.mark.parametrize("window", [1, 16, 17, 33, 1000])
def test_splits_cover_the_window_alone(window: int) -> None:
    rows = torch.arange(4, dtype=torch.int32, device=DEVICE)
    positions = torch.tensor([0, 15, 32, 700], dtype=torch.int32, device=DEVICE)
    config = SplitConfig(6, tile_tokens=16)
    work = list_splits(rows, positions, config, window=window)
    items = work[HEADER:].view(-1, ITEM)[: int(work[0])].tolist()
    for slot, position in enumerate(positions.tolist()):
        tiles = -(-position // 16) - max(0, position - window + 1) // 16
        own = [item for item in items if item[0] == slot]
        assert (len(own) - 1) * own[0][2] < max(tiles, 1) <= len(own) * own[0][2]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "storage", "splits"),
    [(6, 2, None, (1, 1, 1)), (2, 1, torch.int8, (1, 1, 1)), (2, 1, None, (3, 5, 1)), (2, 2, torch.int8, (2, 1, 1))],
)
@pytest.mark.parametrize("name", FEW)
def test_chunks(
    name: str, heads: int, kv_heads: int, storage: torch.dtype | None, splits: tuple[int, int, int]
) -> None:
    rule, dim = RULES[name]
    ours, theirs = (Cache(kv_heads, storage, dim) for _ in range(2))
    if storage is None:
        poisoned(ours, 1, 70, rule.window, 16)
    k, v, scales = ours.store(storage)
    new, expected = qkv(27, heads, kv_heads, dim), []
    for row, start, first, count in ((1, 70, 0, 20), (3, 0, 20, 7)):
        expected.append(
            reference.attention(
                new[first : first + count], theirs.k, theirs.v, theirs.tables[row], start, theirs.cos, theirs.sin,
                heads=heads, storage=storage, rule=rule,
            )
        )  # fmt: skip
    token_rows = torch.tensor([1] * 20 + [3] * 7, dtype=torch.int32, device=DEVICE)
    token_positions = torch.tensor([*range(70, 90), *range(7)], dtype=torch.int32, device=DEVICE)
    blocks = block_list(((1, 0, 16, 70), (1, 16, 4, 86), (3, 20, 7, 0)), splits)
    partial = chunk_partials(heads, len(blocks), 16, dim)
    out = torch.full((27, heads * dim), torch.nan, dtype=DTYPE, device=DEVICE)
    rotate_and_store(
        new, k, v, token_rows, token_positions, ours.tables, ours.cos, ours.sin, heads=heads, scales=scales, pdl=PDL
    )
    chunk_attention(
        new,
        k,
        v,
        blocks,
        ours.tables,
        out,
        *partial,
        heads=heads,
        block=16,
        tile=16,
        scales=scales,
        rule=rule,
        pdl=PDL,
    )
    torch.testing.assert_close(out.float(), torch.cat(expected), **CLOSE)


@pytest.mark.parametrize(("heads", "kv_heads", "splits"), [(6, 2, 4), (2, 2, 1)])
@pytest.mark.parametrize("name", FEW)
def test_one_row_beside_its_value_projection(name: str, heads: int, kv_heads: int, splits: int) -> None:
    rule, dim = RULES[name]
    row, position, width = 2, 90, 96
    ours, theirs = Cache(kv_heads, dim=dim), Cache(kv_heads, dim=dim)
    poisoned(ours, row, position, rule.window, 16)
    h, gain = random(1, width), random(width, seed=5)
    wqkv = weights((heads + 2 * kv_heads) * dim, width)
    num_qk_rows = (heads + kv_heads) * dim
    qkv_row = reference.linear(h, wqkv, gain=gain, eps=EPS).to(DTYPE)
    expected = reference.attention(
        qkv_row, theirs.k, theirs.v, theirs.tables[row], position, theirs.cos, theirs.sin, heads=heads, rule=rule
    )
    out = torch.full((1, heads * dim), torch.nan, dtype=DTYPE, device=DEVICE)
    value_weight, partial_weight = (torch.full((heads,), torch.nan, device=DEVICE) for _ in range(2))
    counters = torch.zeros(heads, dtype=torch.int32, device=DEVICE)
    fused_decode_value_proj(
        qkv_row, h, gain, wqkv[num_qk_rows:], ours.k, ours.v, torch.tensor([row], dtype=torch.int32, device=DEVICE),
        torch.full((4,), position, dtype=torch.int32, device=DEVICE), ours.tables, ours.cos, ours.sin, out,
        value_weight, torch.empty(heads * splits * 64, device=DEVICE), torch.empty(heads * splits * 2, device=DEVICE),
        partial_weight, counters, heads=heads, eps=EPS, config=SplitConfig(splits, tile_tokens=16), block=128,
        rule=rule, pdl=PDL,
    )  # fmt: skip
    value = qkv_row[:, num_qk_rows:].view(kv_heads, 1, dim).expand(-1, heads // kv_heads, -1).reshape(heads, dim)
    attended = out.view(heads, dim).float() + value_weight[:, None] * value.float()
    torch.testing.assert_close(attended.view(1, -1), expected.float(), **CLOSE)
    assert not counters.any()
