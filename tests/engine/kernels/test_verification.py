"""Steps that verify drafts, against plain torch: where their tokens stand, what they attend to, where rows go on."""

from dataclasses import dataclass

import pytest
import torch

from engine.kernels.attention.chunk_attention import rotate_and_store
from engine.kernels.attention.verify_attention import VERIFY_ITEM, VerifyConfig, verify_attention
from engine.kernels.verification import MAX_RUN, RUN, accept_drafts, place_tokens
from engine.layers.paged_attention import PLAIN, AttentionRule
from engine.scheduler.drafts.verification import num_accepted
from tests.engine.kernels import reference
from tests.engine.kernels.test_attention import CLOSE, DEVICE, DTYPE, ONE_STEP, PDL, STORAGES, Cache, dequantized, qkv


def ints(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def test_tokens_stand_after_their_rows() -> None:
    rows, offsets, drafts = [2, 2, 2, 0, 1, 1, -1], [0, 1, 2, 0, 0, 1, 0], [0, 8, 9, 0, 0, 7, 0]
    last_tokens, positions = ints([40, 41, 42]), ints([100, 0, 16])
    tokens, token_positions, targets = (torch.full((7,), -9, dtype=torch.int32, device=DEVICE) for _ in range(3))
    place_tokens(
        ints(rows), ints(offsets), ints(drafts), last_tokens, positions, tokens, token_positions, targets, pdl=PDL
    )
    assert tokens.tolist() == [42, 8, 9, 40, 41, 7, 0]
    assert token_positions.tolist() == [16, 17, 18, 100, 0, 1, 0]
    assert targets.tolist() == [17, 18, 19, 101, 1, 2, 0]


@pytest.mark.parametrize(
    ("drafts", "sampled"),
    [
        ([], [5]), ([], [-1]), ([5], [5, 6]), ([5], [4, 6]), ([5, 6, 7], [5, 6, 7, 8]), ([5, 6, 7], [5, 9, 7, 8]),
        ([5, 6], [5, -1, 3]), ([0], [-1, 4]), ([3] * (MAX_RUN - 1), [3] * MAX_RUN),
        ([3] * (MAX_RUN - 1), [3] * (MAX_RUN - 2) + [4, 3]),
    ],
)  # fmt: skip
def test_a_row_goes_on_after_what_was_right(drafts: list[int], sampled: list[int]) -> None:
    """Beside another row, whose tokens come first, and none."""
    ids, tokens = ints([1, 2, *sampled, 77]), ints([9, 1, 0, *drafts, 77])
    runs = ints([0, 0, 2, 0, 2, 2, len(sampled), 0, -1, 0, 0, 0]).view(-1, RUN)
    last_tokens, positions, epoch = ints([50, 51, 52]), ints([10, 20, 30]), ints([100])
    accept_drafts(ids, tokens, runs, last_tokens, positions, epoch=epoch, collectives=7, pdl=PDL)
    accepted = num_accepted(drafts, sampled)
    assert last_tokens.tolist() == [2, 51, max(0, sampled[accepted])]
    assert positions.tolist() == [12, 20, 30 + accepted + 1]
    assert epoch.tolist() == [107]


@dataclass(frozen=True)
class Case:
    """`rows`: row, position, new tokens. `splits`: the most of each; `queries`: tokens of an item."""

    heads: int = 2
    kv_heads: int = 2
    dim: int = 32
    rows: tuple[tuple[int, int, int], ...] = ((1, 37, 4), (3, 0, 3), (2, 15, 1), (0, 90, 13))
    splits: int = 1
    queries: int = 16
    min_tiles: int = 1
    rule: AttentionRule = PLAIN
    storage: torch.dtype | None = None


CASES = {
    "MHA": Case(),
    "MHA, split": Case(splits=4),
    "GQA, split, few queries": Case(6, 2, queries=4, splits=9, min_tiles=2),
    "window, padded head": Case(2, 1, 24, rule=AttentionRule(window=21, softcap=3.0), splits=3),
    "int8": Case(4, 2, splits=2, storage=torch.int8),
}
LONG_CASES = {
    "int8, MHA": Case(storage=torch.int8),
    "group of 5": Case(5, 1, 16, queries=7),
    "head 256": Case(2, 2, 256, splits=16),
    "head 128": Case(8, 2, 128, splits=2),
    "small window": Case(2, 2, rule=AttentionRule(window=2), splits=2),
    **{f"{storage}": Case(4, 2, splits=2, storage=storage) for storage in STORAGES[2:]},
}


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=name) for name, case in CASES.items()),
        *(pytest.param(case, id=name, marks=pytest.mark.long) for name, case in LONG_CASES.items()),
    ],
)
def test_new_tokens_attend_to_all_before_them(case: Case) -> None:
    heads, kv_heads, dim, storage = case.heads, case.kv_heads, case.dim, case.storage
    ours, theirs = (Cache(kv_heads, storage, dim) for _ in range(2))
    k, v, scales = ours.store(storage)
    total = 32
    new = qkv(total, heads, kv_heads, dim)
    expected, items, positions = [], list[tuple[int, ...]](), [0] * 4
    token_rows, token_positions = list[int](), list[int]()
    for row, start, count in case.rows:
        first = len(token_rows)
        expected.append(
            reference.attention(
                new[first : first + count],
                theirs.k,
                theirs.v,
                theirs.tables[row],
                start,
                theirs.cos,
                theirs.sin,
                heads=heads,
                storage=storage,
                rule=case.rule,
            )
        )
        positions[row] = start
        token_rows += [row] * count
        token_positions += range(start, start + count)
        for at in range(0, count, case.queries):
            block = (row, first + at, min(case.queries, count - at), at)
            items += [(*block, split, case.splits, 0, 0) for split in range(case.splits)]
    unused = total - len(token_rows)
    items += [(-1, *[0] * (VERIFY_ITEM - 1))] * 3
    out = torch.full((total, heads * dim), torch.nan, dtype=DTYPE, device=DEVICE)
    lanes = max(16, 1 << (case.queries * heads // kv_heads - 1).bit_length())
    config = VerifyConfig(lanes, tile_tokens=16, min_tiles=case.min_tiles)
    assert config.max_queries(heads // kv_heads) >= case.queries
    partial = len(items) * kv_heads
    partial_out = torch.full((partial * lanes * max(16, 1 << (dim - 1).bit_length()),), torch.nan, device=DEVICE)
    partial_stats = torch.full((partial * lanes * 2,), torch.nan, device=DEVICE)
    counters = torch.zeros(partial, dtype=torch.int32, device=DEVICE)
    rotate_and_store(
        new, k, v, ints([*token_rows, *[-1] * unused]), ints([*token_positions, *[0] * unused]), ours.tables, ours.cos,
        ours.sin, heads=heads, scales=scales, pdl=PDL,
    )  # fmt: skip
    for _ in range(2):  # the counters are as they were
        verify_attention(
            new, k, v, ints([number for item in items for number in item]).view(-1, VERIFY_ITEM), ints(positions),
            ours.tables, out, partial_out, partial_stats, counters, heads=heads, config=config, scales=scales,
            rule=case.rule, pdl=PDL,
        )  # fmt: skip
    torch.testing.assert_close(out[: len(token_rows)].float(), torch.cat(expected), **CLOSE)
    assert out[len(token_rows) :].isnan().all()
    torch.testing.assert_close(
        dequantized(k, scales, False), theirs.k.float(), **(CLOSE if storage is None else ONE_STEP)
    )
    assert not counters.any()
