"""Which rows share a prefix, and that steps which read it once sample the ids of plain torch."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from random import Random

import pytest

from engine.runner.cuda.batch import prefix_limits
from engine.runner.cuda.batch.input_buffers import batch_shapes
from engine.runner.cuda.batch.prefix_limits import PrefixLimits
from engine.runner.cuda.batch.shared_prefixes import PrefixGroups, SharedPrefixes
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.runner.cuda.forward import CudaForward
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan
from tests.engine.runner.cuda.test_cuda_runner import FAMILIES, HEAD_DIMS, config, model, tokens

PAGE, ROWS, PAGES = 16, 5, 60


def entering(row: int, page_ids: list[int], cached: int, length: int) -> StepPlan:
    """A row enters with a prompt of `length` tokens, of which `cached` are."""
    grants = tuple((row, index, page_id) for index, page_id in enumerate(page_ids))
    chunk = PrefillChunk(row, cached, tokens(length - cached, row + length), True)
    return StepPlan(0, (NewSequence(row, 0.0, 1.0, 1),), grants, (chunk,))


def following(limits: PrefixLimits, tables: list[tuple[list[int], int]]) -> SharedPrefixes:
    """Rows with these page tables and numbers of tokens."""
    shared = SharedPrefixes(limits, config(max_num_seqs=len(tables), max_context=20 * PAGE))
    for row, (page_ids, length) in enumerate(tables):
        shared.update(entering(row, page_ids, 0, length))
    return shared


def by_rows(groups: PrefixGroups | None, rows: list[int]) -> dict[frozenset[int], int]:
    """The tokens that each set of rows shares, by the rows of an item."""
    found = {} if groups is None else groups.items
    return {
        frozenset(rows[slot] for slot in groups.members[first : first + count]): groups.slots[groups.members[first]][0]
        for first, count, _, _, _ in found
    }  # fmt: skip


def test_groups_share_whole_pages_before_every_new_token() -> None:
    limits = PrefixLimits(min_members=2, min_tokens=16, max_members=8, items=4, tile=16)
    tables = [
        ([7, 8, 9, 1], 60), ([7, 8, 9, 2], 48), ([7, 8, 9, 3], 47), ([5, 8, 9, 4], 60), ([6], 16), ([6, 10], 20),
    ]  # fmt: skip
    shared = following(limits, tables)
    # Of row 2 the third page is not full, so the three share two: more than the two rows that share three.
    assert by_rows(shared.groups((3, 2, 1, 0)), [3, 2, 1, 0]) == {frozenset({0, 1, 2}): 32}
    assert by_rows(shared.groups((0, 1, 3)), [0, 1, 3]) == {frozenset({0, 1}): 48}
    assert by_rows(shared.groups((4, 1, 5, 0)), [4, 1, 5, 0]) == {frozenset({0, 1}): 48, frozenset({4, 5}): 16}
    assert shared.groups((0, 3)) is None
    assert shared.groups((2,)) is None


def test_the_groups_that_save_most() -> None:
    limits = PrefixLimits(min_members=2, min_tokens=16, max_members=8, items=4, tile=16)
    little = [([1, 2 + row // 2, 10 + row], 48) for row in range(4)]  # all share 16 tokens, two pairs 32
    assert by_rows(following(limits, little).groups((0, 1, 2, 3)), [0, 1, 2, 3]) == {
        frozenset({0, 1}): 32, frozenset({2, 3}): 32,
    }  # fmt: skip
    much = [([1, 2, 3, 4 + row // 2, 10 + row], 80) for row in range(4)]  # all share 48, two pairs 64
    assert by_rows(following(limits, much).groups((0, 1, 2, 3)), [0, 1, 2, 3]) == {frozenset({0, 1, 2, 3}): 48}


def test_limits() -> None:
    tables = [([1, 2, 3, 9 + row], 60) for row in range(3)]
    assert following(PrefixLimits(4, 16, 8, 4, 16), tables).groups((0, 1, 2)) is None
    assert following(PrefixLimits(2, 49, 8, 4, 16), tables).groups((0, 1, 2)) is None
    assert following(PrefixLimits(2, 1000, 8, 4, 16), tables).groups((0, 1, 2)) is None
    assert by_rows(following(PrefixLimits(2, 16, 8, 4, 32), tables).groups((0, 1, 2)), [0, 1, 2]).popitem()[1] == 32


def test_a_changed_row_leaves_its_group() -> None:
    limits = PrefixLimits(min_members=2, min_tokens=16, max_members=8, items=4, tile=16)
    shared = following(limits, [([1, 2 + row], 20) for row in range(3)])
    rows = (0, 1, 2)
    groups = shared.groups(rows)
    assert by_rows(groups, [*rows]) == {frozenset(rows): 16}
    shared.update(StepPlan(1, decode_rows=rows, page_grants=((0, 2, 50),)))
    assert shared.groups(rows) is groups  # a page for what comes
    shared.update(StepPlan(2, freed_rows=(1,)))
    shared.update(entering(1, [7, 8], 0, 20))
    assert by_rows(shared.groups(rows), [*rows]) == {frozenset({0, 2}): 16}
    shared.update(StepPlan(3, freed_rows=(2,)))
    assert shared.groups(rows) is None  # nothing is known of the row
    shared.update(entering(2, [7, 9], 16, 20))
    assert by_rows(shared.groups(rows), [*rows]) == {frozenset({1, 2}): 16}


@pytest.mark.parametrize("seed", range(30))
def test_items_cover_every_prefix_once(seed: int) -> None:
    """Random trees of prefixes: every group is true, its items cover it, and they fit into the buffer."""
    random = Random(seed)
    members, tile = random.choice([2, 3, 8, 32]), random.choice([16, 32, 64])
    limits = PrefixLimits(random.choice([2, 3]), random.choice([16, 40, 100]), members, random.choice([1, 4, 30]), tile)
    fresh, nodes = count(1), [list[int]()]
    for _ in range(12):
        nodes.append(random.choice(nodes)[:12] + [next(fresh) for _ in range(random.randint(1, 6))])
    tables = []
    for _ in range(random.randint(2, 40)):
        page_ids = [*random.choice(nodes), next(fresh)]
        tables.append((page_ids, random.randint(1, len(page_ids) * PAGE - 1)))
    shared = following(limits, tables)
    rows = tuple(random.sample(range(len(tables)), random.randint(1, len(tables))))
    groups = shared.groups(rows)
    if groups is None:
        return
    assert len(groups.items) <= limits.max_items(len(rows))
    assert len(groups.slots) == len(rows)
    assert len(set(groups.members)) == len(groups.members)
    covered: dict[int, list[tuple[int, int, int]]] = {}
    for first, number, start, end, part in groups.items:
        slots = groups.members[first : first + number]
        assert len(slots) == number <= members
        assert len({tuple(tables[rows[slot]][0][: groups.slots[slot][0] // PAGE]) for slot in slots}) == 1
        for slot in slots:
            covered.setdefault(slot, []).append((start, end, part))
    for slot, row in enumerate(rows):
        shared_tokens, parts = groups.slots[slot]
        assert shared_tokens % max(tile, PAGE) == 0
        assert shared_tokens <= tables[row][1]
        assert (shared_tokens >= limits.min_tokens) == (slot in groups.members) == (slot in covered)
        own = sorted(covered.get(slot, []))
        assert [part for _, _, part in own] == list(range(parts))
        assert [start for start, _, _ in own] == [0, *(end for _, end, _ in own)][:-1] or not own
        assert all(start < end and start % tile == end % tile == 0 for start, end, _ in own)
        assert not own or own[-1][1] == shared_tokens


class Room:
    """Rows that come and go: plans as the scheduler makes them, with the pages of three personas shared.

    `pages` of the cache; `prompts`: pages of each persona.
    """

    def __init__(self, seed: int, pages: int = PAGES, prompts: tuple[int, int, int] = (1, 2, 1)) -> None:
        self.random, self.prompts = Random(seed), prompts
        self.free_pages, self.free_rows = list(range(pages)), list(range(ROWS))
        self.random.shuffle(self.free_pages)
        self.personas: dict[int, list[int]] = {}  # computed pages
        self.rows: dict[int, tuple[int, list[int], int]] = {}  # persona, pages, tokens
        self.step = count()

    def plan(self) -> StepPlan:
        """Rows leave, rows enter, rows whose turn it is decode."""
        freed = [row for row in self.rows if self.random.random() < 0.15]
        if self.random.random() < 0.1:  # a persona's pages are evicted, when all its rows have left
            freed = list(self.rows)
        for row in freed:
            self._leave(row)
        if not self.rows and self.personas and self.random.random() < 0.5:
            self.free_pages += self.personas.popitem()[1]
            self.random.shuffle(self.free_pages)
        decoding, grants = tuple(self.rows), list[tuple[int, int, int]]()
        for row in decoding:
            persona, pages, length = self.rows[row]
            if length == len(pages) * PAGE:
                pages.append(self.free_pages.pop())
                grants.append((row, len(pages) - 1, pages[-1]))
            self.rows[row] = (persona, pages, length + 1)
        entering: list[StepPlan] = []
        while self.free_rows and self.random.random() < 0.6 and len(entering) < 2:
            entering.append(self._enter(others=len(entering)))
        return StepPlan(
            next(self.step), tuple(sequence for plan in entering for sequence in plan.new_sequences),
            (*grants, *(grant for plan in entering for grant in plan.page_grants)),
            tuple(chunk for plan in entering for chunk in plan.chunks), decoding, tuple(freed),
        )  # fmt: skip

    def _enter(self, others: int) -> StepPlan:
        row = self.free_rows.pop(self.random.randrange(len(self.free_rows)))
        persona, cached = self.random.randrange(3), 0
        pages = list(self.personas.get(persona, []))
        if pages:
            cached = len(pages) * PAGE
        # Of two rows that enter together, the second cannot read what the first computes.
        prefix = self.prompts[persona] * PAGE
        length = prefix + self.random.choice([1, 2, 15]) if not others or cached else 3
        while len(pages) * PAGE < length:
            pages.append(self.free_pages.pop())
        self.rows[row] = (persona, pages, length)
        prompt = (*tokens(prefix, persona), *tokens(PAGE, row + length))
        if not cached and length > PAGE:
            self.personas[persona] = pages[: self.prompts[persona]]
        new, grants = NewSequence(row, 0.0, 1.0, 1), tuple((row, index, page) for index, page in enumerate(pages))
        return StepPlan(0, (new,), grants, (PrefillChunk(row, cached, prompt[cached:length], True),))

    def _leave(self, row: int) -> None:
        persona, pages, _ = self.rows.pop(row)
        self.free_pages += [page for page in pages if page not in self.personas.get(persona, [])]
        self.free_rows.append(row)
        self.random.shuffle(self.free_pages)


@pytest.mark.parametrize(
    ("family", "kv_heads", "seed", "steps"),
    [
        ("llama", 1, 20, 10),
        *(pytest.param(*case, marks=pytest.mark.long) for case in (
            ("llama", 2, 20, 30), ("windows", 2, 18, 12), ("gemma", 1, 36, 12), ("head_size", 2, 15, 12),
            ("qwen3moe", 1, 4, 12),
        )),
    ],
)  # fmt: skip
def test_the_same_ids_as_plain_torch(
    family: str, kv_heads: int, seed: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups come and go, and the pages of rows that left serve others."""
    monkeypatch.setattr(prefix_limits, "MIN_PREFIX", 16)
    monkeypatch.setattr(prefix_limits, "MIN_MEMBERS", 2)
    shapes = []
    run = CudaForward.run
    monkeypatch.setattr(CudaForward, "run", lambda self, shape, *rest: (shapes.append(shape), run(self, shape, *rest)))
    transformer = model(kv_heads, FAMILIES[family], HEAD_DIMS.get(family, 16))
    settings = config(max_num_seqs=ROWS, max_prefill_tokens=64)
    plain, ours = TorchRunner(settings, transformer, PAGES), CudaRunner(settings, transformer)
    ours.start(PAGES)
    room = Room(seed)
    for _ in range(steps):
        plan = room.plan()
        assert ours.wait(ours.execute_async(plan)) == plain.wait(plain.execute_async(plan))
    sharing = [shape for shape in shapes if shape.shares_prefixes]
    assert len(sharing) > steps // 4
    assert {shape.num_prefill_tokens > 0 for shape in sharing} == {True, False}
    ours.close()


def test_shapes_that_share_prefixes_are_some_of_the_others_again() -> None:
    limits = PrefixLimits(min_members=3, min_tokens=512, max_members=8, items=16, tile=64)
    for ranks in (1, 2):
        settings = config(
            max_num_seqs=32, max_prefill_tokens=512, burst_prefill_tokens=1024, counts_rows=True, world_size=ranks
        )
        plain, both = batch_shapes(settings), batch_shapes(settings, prefixes=limits)
        assert both[: len(plain)] == plain
        again = [replace(shape, shares_prefixes=False) for shape in both[len(plain) :]]
        assert all(shape.shares_prefixes for shape in both[len(plain) :])
        assert set(again) < set(plain)
        assert [shape.num_slots for shape in again if not shape.num_prefill_tokens] == [4, 8, 16, 32]
        beside = {shape.num_tokens for shape in again if shape.num_prefill_tokens}
        assert beside == ({64, 128, 192, 256, 320, 384, 512} if ranks == 1 else set())


def test_models_without_shared_prefixes() -> None:
    """Windows in every layer, contexts and rooms that are too small."""
    assert prefix_limits.prefix_limits(config(max_context=2048), model(2)) is not None
    assert prefix_limits.prefix_limits(config(max_context=512), model(2)) is None
    assert prefix_limits.prefix_limits(config(max_context=2048, max_num_seqs=2), model(2)) is None
    assert prefix_limits.prefix_limits(config(max_context=2048), model(2, FAMILIES["windows"])) is not None
