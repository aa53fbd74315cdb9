"""A runner without a model. Its pages remember the tokens written to them and those before, as keys and values do, and
the next token is a hash of what a row reads.

A page that is granted too early, or overwritten while another row reads it, therefore changes a reply, and one that is
read after another text than it was written after is an error.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from engine.kv_store.catalogue import StoredPage, parents_first
from engine.layers.sampler import signed64
from engine.runner.cuda.host_tier.copy_dependencies import CopyDependencies
from engine.scheduler.drafts.verification import VerifiedRun, num_accepted
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.step_plan import PrefillChunk, StepPlan

Page = list[int | str | None]  # its tokens, then all tokens before

VOCAB = 7  # small, so that prompts and replies often share pages


def next_token(token_ids: Sequence[int], seed: int = 0) -> int:
    """The token that follows `token_ids`."""
    return hashlib.sha256(repr((list(token_ids), seed)).encode()).digest()[0] % VOCAB


def expected_reply(prompt: Sequence[int], length: int, stop: frozenset[int] = frozenset(), seed: int = 0) -> list[int]:
    """The reply to a prompt that has the machine to itself."""
    token_ids = list(prompt)
    while len(token_ids) - len(prompt) < length:
        token = next_token(token_ids, seed)
        if token in stop:
            break
        token_ids.append(token)
    return token_ids[len(prompt) :]


class Images:
    """Pages as they were when they were copied."""

    def __init__(self, images: list[bytes]) -> None:
        self._images = images

    def page(self, index: int) -> bytes:
        return self._images[index]


class MemoryStore:
    """What CacheFiles needs of a PageStore, without files. Some of its records are lost at each restart."""

    def __init__(self, num_records: int) -> None:
        self.num_records, self.is_open, self.backlog = num_records, True, 0
        self.num_commits = self.num_done = 0
        self.pages: list[StoredPage] = []
        self.stamps: dict[int, int] = {}
        self.contents: dict[tuple[int, int], bytes] = {}
        self.catalogue: dict[int, tuple[int, StoredPage]] = {}
        self._kept: tuple[dict[int, int], list[StoredPage]] = ({}, [])
        self._texts: dict[tuple[int, int], tuple[int, ...]] = {}  # of what was put: up to the end of the page

    def reopen(self, lost: set[int]) -> None:
        """As an engine that starts finds it: what the last commit said, and without the content of some records.

        A `PageStore` overwrites what was written since that commit.
        """
        self.check_texts()
        self.stamps, self.pages = dict(self._kept[0]), [replace(page) for page in self._kept[1]]
        committed = self.stamps.items()
        self.contents = {key: each for key, each in self.contents.items() if key in committed and key[0] not in lost}
        self.catalogue = {page.record: (self.stamps[page.record], page) for page in self.pages}

    def check_texts(self) -> None:
        """Raise AssertionError if the last commit says that a page comes after another text than it does."""
        stamps = self._kept[0]
        texts: dict[int, tuple[int, ...]] = {-1: ()}
        for page in parents_first(replace(page) for page in self._kept[1]):
            text = texts[page.record] = (*texts[page.parent_record], *page.token_ids)
            if text != self._texts[page.record, stamps[page.record]]:
                raise AssertionError(f"record {page.record} is said to be the end of {text}")

    def put(self, record: int, stamp: int, images: Images, number: int, page: StoredPage | None) -> None:
        assert page is not None
        self._forget(record)
        before: tuple[int, ...] = ()
        if page.parent_record != -1:
            before = self._texts[page.parent_record, self.catalogue[page.parent_record][0]]
        self._texts[record, stamp] = (*before, *page.token_ids)
        self.contents[record, stamp], self.catalogue[record] = images.page(number), (stamp, page)

    def commit(self, dropped: Iterable[int] = (), last_used: Mapping[int, float] | None = None) -> int:
        for record in dropped:
            self._forget(record)
        self._kept = (
            {record: stamp for record, (stamp, _) in self.catalogue.items()},
            [replace(page) for _, page in self.catalogue.values()],
        )
        self.num_commits += 1
        self.num_done += 1
        return self.num_done

    def retain(self, wanted: Sequence[tuple[int, int]]) -> None:
        self.commit(self.stamps.keys() - dict(wanted).keys())

    def read(self, record: int, stamp: int) -> bytes | None:
        return self.contents.get((record, stamp))

    def finish_reading(self) -> None:
        pass

    def close(self, timeout: float) -> None:
        pass

    def _forget(self, record: int) -> None:
        self.catalogue.pop(record, None)
        self.contents = {key: content for key, content in self.contents.items() if key[0] != record}


class PageMachine:
    """Executes plans as a runner must, and raises AssertionError for a plan that no runner could execute."""

    def __init__(
        self, max_num_seqs: int, num_pages: int, page_size: int, num_slots: int = 0, *, late: bool = False
    ) -> None:
        """`late`: copies are made as late as a runner may make them beside its steps."""
        self._page_size, self._late = page_size, late
        self._dependencies = CopyDependencies()
        self._batches: dict[int, PageCopies] = {}  # not made yet
        self._slots = [self._empty() for _ in range(num_slots)]
        self._pages = [self._empty() for _ in range(num_pages)]
        self._page_tables: list[list[int] | None] = [None] * max_num_seqs
        self._num_computed = [0] * max_num_seqs
        self._last_ids = [0] * max_num_seqs
        self._seeds = [0] * max_num_seqs
        self.verified: dict[int, VerifiedRun] = {}  # of the last plan

    def execute(self, plan: StepPlan) -> dict[int, int]:
        """Row -> sampled id."""
        self._make_copies(self._dependencies.batch_before_duplicates(plan.copies))
        contents = [list(self._pages[source]) for source, _ in plan.copies.duplicates]
        for content, (_, target) in zip(contents, plan.copies.duplicates, strict=True):
            self._pages[target] = content
        batch = self._dependencies.batch_to_wait_for(plan)
        if plan.copies:
            self._batches[self._dependencies.last_batch] = plan.copies
        self._make_copies(batch)
        for row in plan.freed_rows:
            self._page_tables[row] = None
        for sequence in plan.new_sequences:
            if self._page_tables[sequence.row] is not None:
                raise AssertionError(f"row {sequence.row} is taken")
            self._page_tables[sequence.row] = []
            self._num_computed[sequence.row], self._seeds[sequence.row] = 0, sequence.seed
        for row, index, page_id in plan.page_grants:
            table = self._table(row)
            if index != len(table):
                raise AssertionError(f"grant {index} for a table of {len(table)}")
            table.append(page_id)
        drafts = {each.row: each.drafts for each in plan.verifications}
        decoding = [*drafts, *plan.decode_rows]
        chunks = [
            *plan.chunks,
            *(
                PrefillChunk(row, self._num_computed[row], (self._last_ids[row], *drafts.get(row, ())), True)
                for row in decoding
            ),
        ]
        rows = [chunk.row for chunk in chunks]
        if len(rows) != len(set(rows)) or not (rows or plan.copies):
            raise AssertionError(f"rows {rows}")
        for chunk in chunks:  # all writes come before any read
            table = self._table(chunk.row)
            for position, token in enumerate(chunk.token_ids, chunk.start):
                self._pages[table[position // self._page_size]][position % self._page_size] = token
            self._num_computed[chunk.row] = chunk.start + len(chunk.token_ids)
        for chunk in chunks:
            self._note_text_before(chunk)
        ids = {}
        self.verified = {}
        for chunk in chunks:
            if not chunk.is_last:
                continue
            read, seed = self._read(chunk.row), signed64(self._seeds[chunk.row])
            guessed = drafts.get(chunk.row, ())
            sampled = [next_token(read[: len(read) - left], seed) for left in reversed(range(len(guessed) + 1))]
            accepted = num_accepted(guessed, sampled)
            self._num_computed[chunk.row] -= len(guessed) - accepted
            ids[chunk.row] = self._last_ids[chunk.row] = sampled[accepted]
            if guessed:
                self.verified[chunk.row] = VerifiedRun(tuple(sampled[: accepted + 1]))
        return ids

    def _make_copies(self, batch: int | None) -> None:
        for number in list(self._batches):
            if not self._late or (batch is not None and number <= batch):
                self._copy(self._batches.pop(number))

    def export_pages(self, places: Sequence[tuple[int, int]]) -> "Images":
        """Copies of pages or slots, after all copies that plans asked for."""
        self._finish_copies()
        images = [list(self._pages[page_id] if page_id >= 0 else self._slots[slot]) for page_id, slot in places]
        if any(None in image for image in images):
            raise AssertionError(f"a page is stored before it is full: {places}")
        return Images([json.dumps(image).encode() for image in images])

    def import_pages(self, places: Sequence[tuple[int, int]], images: Sequence[bytes]) -> None:
        """Write what was exported."""
        self._finish_copies()
        for (page_id, slot), image in zip(places, images, strict=True):
            memory, number = (self._pages, page_id) if page_id >= 0 else (self._slots, slot)
            memory[number] = json.loads(image)

    def _finish_copies(self) -> None:
        for number in list(self._batches):
            self._copy(self._batches.pop(number))

    def _copy(self, copies: PageCopies) -> None:
        for page_id in copies.overwritten_pages:
            self._pages[page_id] = self._empty()
        for slot in copies.overwritten_slots:
            self._slots[slot] = self._empty()
        for slot, page_id in copies.restores:
            self._pages[page_id] = list(self._slots[slot])
        for page_id, slot in copies.saves:
            if None in self._pages[page_id]:
                raise AssertionError(f"page {page_id} is saved before it is full: {self._pages[page_id]}")
            self._slots[slot] = list(self._pages[page_id])

    def _table(self, row: int) -> list[int]:
        table = self._page_tables[row]
        if table is None:
            raise AssertionError(f"row {row} holds no sequence")
        return table

    def _read(self, row: int) -> list[int]:
        table = self._table(row)
        token_ids: list[int] = []
        for position in range(self._num_computed[row]):
            page, index = self._pages[table[position // self._page_size]], position % self._page_size
            if not index and page[0] is not None and page[-1] != json.dumps(token_ids):
                raise AssertionError(f"row {row} reads at {position} what was written after {page[-1]}: {token_ids}")
            token = page[index]
            if token is None:
                raise AssertionError(f"row {row} reads position {position}, which was never written")
            assert isinstance(token, int)
            token_ids.append(token)
        return token_ids

    def _empty(self) -> Page:
        return [None] * (self._page_size + 1)

    def _note_text_before(self, chunk: PrefillChunk) -> None:
        """Each page that the chunk has written to remembers the tokens of its row before it."""
        pages = [self._pages[page_id] for page_id in self._table(chunk.row)]
        text = [token for page in pages for token in page[:-1]]
        end = chunk.start + len(chunk.token_ids)
        for index in range(chunk.start // self._page_size, -(-end // self._page_size)):
            pages[index][-1] = json.dumps(text[: index * self._page_size])
