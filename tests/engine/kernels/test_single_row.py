"""One row's attention in a kernel of its own, against plain torch."""

import pytest
import torch

from engine.kernels.attention.single_row import single_row_attention
from engine.kernels.attention.split_kv import SplitConfig
from engine.layers.paged_attention import PLAIN, AttentionRule
from tests.engine.kernels import reference
from tests.engine.kernels.test_attention import CLOSE, DEVICE, DIM, DTYPE, ONE_STEP, PDL, Cache, dequantized, qkv
from tests.engine.kernels.test_attention_rules import FEW, RULES, poisoned

ROW = 2


@pytest.mark.parametrize(("splits", "min_tiles", "early_tiles"), [(1, 1, 0), (4, 1, 1), (2, 2, 3)])
@pytest.mark.parametrize("position", [0, 16, 90])
@pytest.mark.parametrize(("heads", "kv_heads"), [pytest.param(2, 2, marks=pytest.mark.long), (6, 2)])
def test_attention(heads: int, kv_heads: int, position: int, splits: int, min_tiles: int, early_tiles: int) -> None:
    check(heads, kv_heads, position, SplitConfig(splits, tile_tokens=16, min_tiles=min_tiles, early_tiles=early_tiles))


@pytest.mark.parametrize("storage", [torch.int8, torch.float8_e4m3fn])
def test_a_cache_in_8_bits(storage: torch.dtype) -> None:
    check(6, 2, 37, SplitConfig(2, tile_tokens=16, early_tiles=1), storage=storage)


@pytest.mark.parametrize("name", FEW)
def test_rules(name: str) -> None:
    rule, dim = RULES[name]
    check(6, 2, 90, SplitConfig(4, tile_tokens=16, early_tiles=1), rule=rule, dim=dim)


def check(
    heads: int,
    kv_heads: int,
    position: int,
    config: SplitConfig,
    *,
    storage: torch.dtype | None = None,
    rule: AttentionRule = PLAIN,
    dim: int = DIM,
) -> None:
    ours, theirs = (Cache(kv_heads, storage, dim) for _ in range(2))
    if storage is None:
        poisoned(ours, ROW, position, rule.window, 16)
    k, v, scales = ours.store(storage)
    new = qkv(1, heads, kv_heads, dim)
    expected = reference.attention(
        new, theirs.k, theirs.v, theirs.tables[ROW], position, theirs.cos, theirs.sin, heads=heads, storage=storage,
        rule=rule,
    )  # fmt: skip
    out, counters = attend(new, k, v, scales, ours, ROW, position, heads, config, rule)
    torch.testing.assert_close(out.float(), expected, **CLOSE)
    page, offset = ours.tables[ROW, position // 16], position % 16
    for cache, is_value, plain in ((k, False, theirs.k), (v, True, theirs.v)):
        stored = dequantized(cache, scales, is_value)[page, offset]
        close = CLOSE if storage is None else ONE_STEP
        torch.testing.assert_close(stored, plain[page, offset].float(), **close)
    assert not counters.any()


def test_a_slot_without_a_row_writes_to_no_page() -> None:
    ours, theirs = Cache(2), Cache(2)
    attend(qkv(1, 2, 2), ours.k, ours.v, None, ours, -1, 20, 2, SplitConfig(2, tile_tokens=16), PLAIN)
    torch.testing.assert_close(ours.k, theirs.k)
    torch.testing.assert_close(ours.v, theirs.v)


def attend(
    new: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scales: torch.Tensor | None,
    cache: Cache,
    row: int,
    position: int,
    heads: int,
    config: SplitConfig,
    rule: AttentionRule,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(attention, counters) of one slot; memory that must be written first is NaN."""
    dim = k.shape[-1]
    out = torch.full((1, heads * dim), torch.nan, dtype=DTYPE, device=DEVICE)
    partial_out, partial_stats = (
        torch.full((heads * config.target_splits * size,), torch.nan, device=DEVICE) for size in (64, 2)
    )
    counters = torch.zeros(heads, dtype=torch.int32, device=DEVICE)
    single_row_attention(
        new, k, v, torch.tensor([row], dtype=torch.int32, device=DEVICE),
        torch.full((4,), position, dtype=torch.int32, device=DEVICE), cache.tables, cache.cos, cache.sin, out,
        partial_out, partial_stats, counters, heads=heads, config=config, scales=scales,
        rule=rule, pdl=PDL,
    )  # fmt: skip
    return out, counters
