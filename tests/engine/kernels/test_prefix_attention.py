"""Shared prefixes that are read once, against plain torch that reads every row's own pages.

Only the page table of an item's first member holds the prefix's pages. In those of the others its place is a page of
NaN, which nothing may read; so are the pages that no row holds.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from engine.kernels.attention.decode_attention import decode_attention
from engine.kernels.attention.prefix_attention import prefix_attention
from engine.kernels.attention.prefix_work import MAX_PARTS, PREFIX_HEADER, PREFIX_ITEM, PrefixConfig, PrefixWork
from engine.kernels.attention.split_kv import MAX_SPLITS, SplitConfig
from engine.layers.paged_attention import PLAIN, AttentionRule
from engine.layers.quantized_kv import stored_values
from engine.runner.cuda.batch.prefix_limits import prefix_config
from tests.engine.kernels import reference
from tests.engine.kernels.test_attention import CLOSE, DEVICE, DTYPE, PAGE, PDL, STORAGES, Cache, list_splits


@dataclass(frozen=True)
class Case:
    """`prefixes`: tiles and members of each group; `rests`: tokens after it, in turn; `alone`: contexts of other rows;
    `part`: tiles of each part of a prefix.
    """

    heads: int = 2
    kv_heads: int = 2
    dim: int = 32
    prefixes: tuple[tuple[int, int], ...] = ((3, 3),)
    rests: tuple[int, ...] = (0, 5, 33)
    alone: tuple[int, ...] = ()
    part: int = 2
    splits: int = 1
    rule: AttentionRule = PLAIN
    storage: torch.dtype | None = None


CASES = {
    "MHA": Case(prefixes=((3, 3), (1, 2)), alone=(40,), splits=8),
    "GQA": Case(10, 2, rests=(17, 0, 40, 3), prefixes=((2, 4),), part=1, splits=8),
    "no group": Case(prefixes=(), alone=(20, 3)),
    "padded head, softcap": Case(4, 2, 40, ((1, 2),), rule=AttentionRule(scale=0.7, softcap=3.0)),
}
LONG_CASES = {
    "MHA, int8": Case(prefixes=((3, 3), (1, 4)), storage=torch.int8),
    "small head": Case(3, 3, 16, ((1, 7),), rests=(0,)),
    "more than an item": Case(2, 1, 16, ((5, 70), (2, 3)), rests=(0, 1, 16, 40), alone=(9, 90), splits=30),
    "many pages": Case(2, 2, 64, ((16, 3), (11, 4)), rests=(3, 0), alone=(0,), part=1),
    "head 128": Case(8, 2, 128, ((4, 9),), splits=4),
    "head 256": Case(4, 2, 256, ((2, 3),), rule=AttentionRule(softcap=4.0)),
    "head 80, MHA": Case(2, 2, 80, ((2, 3),), part=3, rule=AttentionRule(scale=0.2)),
    "group of 5": Case(5, 1, 32, ((3, 8),), rests=(0, 20)),
    "one member": Case(prefixes=((2, 1),), rests=(7,)),
}


def cases() -> list[object]:
    """The short ones in every storage; the long ones too, marked so."""
    short = [pytest.param(case, id=name) for name, case in CASES.items()]
    stored = [
        pytest.param(replace(CASES[name], storage=storage), id=f"{name}, {storage}")
        for name in ("GQA",)
        for storage in STORAGES[1:]
    ]
    long = [pytest.param(case, id=name, marks=pytest.mark.long) for name, case in LONG_CASES.items()]
    return [*short, *stored, *long]


@pytest.mark.parametrize("case", cases())
def test_prefixes_read_once(case: Case) -> None:
    heads, kv_heads, dim = case.heads, case.kv_heads, case.dim
    config = prefix_config(heads // kv_heads, dim, DTYPE, gpu=DEVICE.type == "cuda")
    tile = config.tile_tokens // PAGE  # pages
    lengths = [
        (group, tiles * tile * PAGE + case.rests[member % len(case.rests)])
        for group, (tiles, members) in enumerate(case.prefixes)
        for member in range(members)
    ] + [(-1, length) for length in case.alone]
    generator = torch.Generator().manual_seed(5)
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    slots = [*[lengths[at] for at in shuffled], None]  # slot s is row s; the last has none
    cache = Cache(kv_heads, dim=dim)
    width = 1 + max(length for _, length in lengths) // PAGE
    count = 2 + width * (len(slots) + len(case.prefixes))
    free = iter((1 + torch.randperm(count - 1, generator=generator)).tolist())  # page 0 is NaN
    k, v = (torch.randn(count, PAGE, kv_heads, dim, generator=generator).to(DEVICE, DTYPE) for _ in range(2))
    if case.storage is not None:
        k, v = (stored_values(each, case.storage) for each in (k, v))
    angle = torch.outer(torch.arange(width * PAGE), 100.0 ** -torch.linspace(0, 1, dim // 2))
    cache.cos, cache.sin = angle.cos().to(DEVICE), angle.sin().to(DEVICE)

    shared = [[next(free) for _ in range(tiles * tile)] for tiles, _ in case.prefixes]
    plain, ours = (torch.zeros(len(slots), width, dtype=torch.int32) for _ in range(2))
    positions = torch.zeros(len(slots), dtype=torch.int32)
    members: list[list[int]] = [[] for _ in shared]
    for slot, entry in enumerate(slots[:-1]):
        group, positions[slot] = entry
        own = [next(free) for _ in range(width)]
        ours[slot] = plain[slot] = torch.tensor(own)
        if group >= 0:
            plain[slot, : len(shared[group])] = torch.tensor(shared[group])
            is_first = len(members[group]) % config.max_members(heads // kv_heads) == 0
            ours[slot, : len(shared[group])] = torch.tensor(shared[group]) if is_first else 0
            members[group].append(slot)
    work = prefix_work(case, members, config, len(slots))

    cache.k, cache.v = k.clone(), v.clone()
    stored_k, stored_v, scales = cache.store(case.storage)
    poison_unheld(plain, positions, stored_k, stored_v, scales)
    new = torch.randn(len(slots), (heads + 2 * kv_heads) * dim, generator=generator).to(DEVICE, DTYPE)
    out = torch.full((len(slots), heads * dim), torch.nan, dtype=DTYPE, device=DEVICE)
    counters = torch.zeros(len(slots) * kv_heads, dtype=torch.int32, device=DEVICE)
    rows = torch.tensor([*range(len(slots) - 1), -1], dtype=torch.int32, device=DEVICE)
    ours, positions = ours.to(DEVICE), positions.to(DEVICE)
    splits = SplitConfig(case.splits, tile_tokens=16)
    list_ = list_splits(rows, positions, splits, prefixes=work.slots)
    max_splits = len(slots) * heads * MAX_SPLITS
    prefix_attention(
        new, stored_k, stored_v, work, rows, positions, ours, cache.cos, cache.sin, heads=heads, config=config,
        scales=scales, rule=case.rule, pdl=PDL,
    )  # fmt: skip
    decode_attention(
        new, stored_k, stored_v, list_, rows, positions, ours, cache.cos, cache.sin, out,
        unwritten(max_splits * 256), unwritten(max_splits * 2), counters,
        heads=heads, config=splits, scales=scales, rule=case.rule, prefix=work, pdl=PDL,
    )  # fmt: skip
    for slot in range(len(slots) - 1):
        expected = reference.attention(
            new[slot : slot + 1], k, v, plain[slot].to(DEVICE), int(positions[slot]), cache.cos, cache.sin, heads=heads,
            storage=case.storage, rule=case.rule,
        )  # fmt: skip
        torch.testing.assert_close(out[slot : slot + 1].float(), expected, **CLOSE)
    assert not counters.any()


def unwritten(numbers: int) -> torch.Tensor:
    """Memory that must be written before it is read."""
    return torch.full((numbers,), torch.nan, device=DEVICE)


def prefix_work(case: Case, groups: list[list[int]], config: PrefixConfig, num_slots: int) -> PrefixWork:
    """The work of some groups of slots, with room for one item more."""
    by_slot, members, items = torch.zeros(num_slots, 2, dtype=torch.int32), [], []
    limit = config.max_members(case.heads // case.kv_heads)
    tile = config.tile_tokens
    for (tiles, _), slots in zip(case.prefixes, groups, strict=True):
        starts = range(0, tiles, case.part)
        assert len(starts) <= MAX_PARTS
        by_slot[slots] = torch.tensor([tiles * tile, len(starts)], dtype=torch.int32)
        for first in range(0, len(slots), limit):
            for part, start in enumerate(starts):
                end = min(start + case.part, tiles)
                item = [len(members) + first, min(limit, len(slots) - first), start * tile, end * tile, part]
                items.append(item + [0] * (PREFIX_ITEM - len(item)))
        members += slots
    numbers = [
        len(items),
        *[0] * (PREFIX_HEADER - 1),
        *[number for item in [*items, [-9] * PREFIX_ITEM] for number in item],
    ]
    padded = [*members, *[0] * (num_slots - len(members))]
    max_parts = num_slots * case.heads * MAX_PARTS
    return PrefixWork(
        by_slot.to(DEVICE), torch.tensor(padded, dtype=torch.int32, device=DEVICE),
        torch.tensor(numbers, dtype=torch.int32, device=DEVICE),
        unwritten(max_parts * 256), unwritten(max_parts * 2),
    )  # fmt: skip


def poison_unheld(
    tables: torch.Tensor, positions: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scales: torch.Tensor | None
) -> None:
    """Make NaN of the pages that no row has computed, or of their scales."""
    held = {int(page) for row, at in enumerate(positions.tolist()) for page in tables[row, : at // PAGE + 1]}
    for page in set(range(len(k))) - held:
        if scales is None:
            k[page] = v[page] = torch.nan
        else:
            scales[page] = 0x7FC07FC0  # two NaNs of bfloat16
