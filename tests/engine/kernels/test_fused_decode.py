"""One row's attention beside its value projection, against plain torch: what the next product reads."""

import pytest
import torch

from engine.kernels.attention.fused_decode import fused_decode_value_proj
from engine.kernels.attention.split_kv import SplitConfig
from engine.kernels.linear.gemv import DeferredValue, gemv
from engine.layers.quantized_kv import stored_values
from engine.model.eight_bit_weight import EightBitWeight, Fp8Weight, Int8Weight
from tests.engine.kernels import reference
from tests.engine.kernels.test_attention import CLOSE, DEVICE, DIM, DTYPE, PDL, Cache
from tests.engine.kernels.test_linear import EPS, random, weights

WIDTH = 96


@pytest.mark.parametrize(("splits", "min_tiles"), [(1, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize("position", [0, 5, 16, 90])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2)])
@pytest.mark.parametrize("kind", [None, pytest.param(Int8Weight, marks=pytest.mark.long)])
def test_the_next_product_adds_the_deferred_value(
    heads: int, kv_heads: int, position: int, splits: int, min_tiles: int, kind: type[EightBitWeight] | None
) -> None:
    check(heads, kv_heads, position, splits, min_tiles, kind)


@pytest.mark.parametrize("kind", [Int8Weight, Fp8Weight])
def test_weights_of_8_bits(kind: type[EightBitWeight]) -> None:
    check(2, 2, 37, 2, 1, kind)


@pytest.mark.parametrize("kind", [None, Fp8Weight])
def test_a_cache_in_fp8(kind: type[EightBitWeight] | None) -> None:
    """The deferred value is the one that the cache gives back."""
    check(2, 2, 37, 2, 1, kind, torch.float8_e4m3fn)


@pytest.mark.parametrize("early_tiles", [1, 3])
@pytest.mark.parametrize("position", [0, 37, 90])
def test_tiles_that_are_read_before_the_query(position: int, early_tiles: int) -> None:
    """Some splits have fewer tiles than `early_tiles`, and some have more."""
    check(6, 2, position, 2, 1, None, early_tiles=early_tiles)


def check(
    heads: int,
    kv_heads: int,
    position: int,
    splits: int,
    min_tiles: int,
    kind: type[EightBitWeight] | None,
    storage: torch.dtype | None = None,
    early_tiles: int = 0,
) -> None:
    row = 2
    ours, theirs = Cache(kv_heads, storage), Cache(kv_heads, storage)
    k_cache, v_cache, _ = ours.store(storage)
    h, gain = random(1, WIDTH), random(WIDTH, seed=5)
    wqkv: torch.Tensor | EightBitWeight = weights((heads + 2 * kv_heads) * DIM, WIDTH)
    if kind is not None and isinstance(wqkv, torch.Tensor):
        wqkv = kind(wqkv)
    num_qk_rows = (heads + kv_heads) * DIM
    expected_qkv = reference.linear(h, wqkv, gain=gain, eps=EPS).to(DTYPE)
    expected = reference.attention(
        expected_qkv, theirs.k, theirs.v, theirs.tables[row], position, theirs.cos, theirs.sin, heads=heads,
        storage=storage,
    )  # fmt: skip
    if storage is not None:
        expected_qkv[:, num_qk_rows:] = stored_values(expected_qkv[:, num_qk_rows:], storage)
    qkv = expected_qkv.clone()
    qkv[:, num_qk_rows:] = torch.nan
    out = torch.full((1, heads * DIM), torch.nan, dtype=DTYPE, device=DEVICE)
    value_weight, partial_weight = (torch.full((heads,), torch.nan, device=DEVICE) for _ in range(2))
    counters = torch.zeros(heads, dtype=torch.int32, device=DEVICE)
    positions = torch.full((4,), position, dtype=torch.int32, device=DEVICE)
    fused_decode_value_proj(
        qkv, h, gain, wqkv, k_cache, v_cache, torch.tensor([row], dtype=torch.int32, device=DEVICE),
        positions, ours.tables, ours.cos, ours.sin, out, value_weight, torch.empty(heads * splits * DIM, device=DEVICE),
        torch.empty(heads * splits * 2, device=DEVICE), partial_weight, counters, heads=heads, eps=EPS,
        config=SplitConfig(splits, tile_tokens=16, min_tiles=min_tiles, early_tiles=early_tiles), block=128,
        first_row=num_qk_rows, pdl=PDL,
    )  # fmt: skip
    torch.testing.assert_close(qkv, expected_qkv, **CLOSE)
    torch.testing.assert_close(k_cache.to(DTYPE), theirs.k, **CLOSE)
    torch.testing.assert_close(v_cache.to(DTYPE), theirs.v, **CLOSE)
    assert not counters.any()
    wo, summed = weights(10, heads * DIM), torch.empty(1, 10, dtype=torch.float32, device=DEVICE)
    deferred = DeferredValue(value_weight, qkv[:, num_qk_rows:], heads // kv_heads, DIM)
    gemv(out, wo, summed, deferred=deferred, pdl=PDL, block=64, two_rows=True)
    torch.testing.assert_close(summed, reference.linear(expected, wo), **CLOSE)


def test_a_slot_without_a_row_writes_to_no_page() -> None:
    ours, theirs = Cache(2), Cache(2)
    h, gain, wqkv = random(1, WIDTH), random(WIDTH, seed=5), weights(6 * DIM, WIDTH)
    qkv = random(1, 6 * DIM)
    no_row = torch.tensor([-1], dtype=torch.int32, device=DEVICE)
    empty = [torch.empty(2 * 2 * DIM, device=DEVICE) for _ in range(2)]
    fused_decode_value_proj(
        qkv, h, gain, wqkv[4 * DIM :], ours.k, ours.v, no_row, torch.full((4,), 20, dtype=torch.int32, device=DEVICE),
        ours.tables, ours.cos, ours.sin, torch.empty(1, 2 * DIM, dtype=DTYPE, device=DEVICE),
        torch.empty(2, device=DEVICE), *empty, torch.empty(2, device=DEVICE),
        torch.zeros(2, dtype=torch.int32, device=DEVICE), heads=2, eps=EPS,
        config=SplitConfig(2, tile_tokens=16), block=128, pdl=PDL,
    )  # fmt: skip
    torch.testing.assert_close(ours.k, theirs.k)
    torch.testing.assert_close(ours.v, theirs.v)
