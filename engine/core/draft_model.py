"""A second, smaller model that continues requests, so that the other one can verify what it says.

It has a runner, rows and pages of its own, and no prefix cache: a request's tokens are read when it first drafts, some
in each step, and its pages are overwritten as soon as it holds no row. A request has the row that it has in the other
runner. It samples with the request's own parameters: the random number of a token is a function of seed and position,
so two models that think alike choose the same token.

It knows requests and runners. How many drafts pay is decided by `ModelDrafter`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.config import EngineConfig
from engine.runner.base import AnyRunner
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.request import Request
from engine.scheduler.step_plan import MAX_FINISHED_PROMPTS, NewSequence, PrefillChunk, StepPlan, float32


@dataclass(slots=True)
class _Row:
    row: int
    page_ids: list[int] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)  # tokens whose keys and values are in the pages
    num_sure: int = 0  # how many of them are the request's

    def num_reusable(self, token_ids: Sequence[int]) -> int:
        """How many of `computed` the request begins with; its last token is always computed again."""
        end = min(len(self.computed), len(token_ids) - 1)
        while self.num_sure < end and self.computed[self.num_sure] == token_ids[self.num_sure]:
            self.num_sure += 1
        return min(self.num_sure, end)


class RunnerDraftModel:
    """A `DraftModel` that computes on a runner of one rank. One thread makes all calls."""

    def __init__(self, runner: AnyRunner, config: EngineConfig, vocab_size: int) -> None:
        """`vocab_size`: of the other model, which knows no higher ids."""
        self._runner, self._config, self._vocab_size = runner, config, vocab_size
        self._free_pages = list(range(runner.num_kv_pages))
        self._rows: dict[Request, _Row] = {}

    def release(self) -> None:
        """Overwrite and free the pages of requests that hold no row any more; see `DraftModel`."""
        gone = [request for request, row in self._rows.items() if request.row != row.row]
        if not gone:
            return
        rows = [self._rows.pop(request) for request in gone]
        page_ids = tuple(page_id for row in rows for page_id in row.page_ids)
        copies = PageCopies(overwritten_pages=page_ids)
        freed = tuple(row.row for row in rows)
        self._runner.wait(self._runner.execute_async(StepPlan(0, freed_rows=freed, copies=copies)))
        self._free_pages += page_ids

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> dict[Request, tuple[int, ...]]:
        """The next tokens of requests, as far as it has read them; see `DraftModel`."""
        self.release()
        sequences, grants, chunks = list[NewSequence](), list[tuple[int, int, int]](), list[PrefillChunk]()
        counts: dict[Request, int] = {}
        budget = self._config.max_prefill_tokens
        for request, wanted_count in wanted[:MAX_FINISHED_PROMPTS]:
            total = len(request.token_ids)
            count = min(wanted_count, self._config.max_context - total)
            row = self._rows.get(request) or _Row(request.row)
            start = row.num_reusable(request.token_ids)
            end = min(total, start + budget)
            pages = self._grant(row, end + count - 1) if count > 0 and end > start else None
            if pages is None:
                continue
            if request not in self._rows:
                self._rows[request] = row
                params = request.params
                temperature, top_p = float32(params.temperature), float32(params.top_p)
                sequences.append(NewSequence(row.row, temperature, top_p, request.seed))
            grants += pages
            chunks.append(PrefillChunk(row.row, start, tuple(request.token_ids[start:end]), end == total))
            row.computed[start:] = request.token_ids[start:end]
            row.num_sure = end
            budget -= end - start
            if end == total:
                counts[request] = count
        if not chunks:
            return {}
        return self._sample(StepPlan(0, tuple(sequences), tuple(grants), tuple(chunks)), counts)

    def prepare(self) -> bool:
        """As `Runner.prepare`."""
        return self._runner.prepare()

    def close(self) -> None:
        """Free the pages."""
        self._runner.close()

    def _grant(self, row: _Row, num_tokens: int) -> list[tuple[int, int, int]] | None:
        """Pages for that many tokens; None if there are too few."""
        first = len(row.page_ids)
        count = max(0, -(-num_tokens // self._config.page_size) - first)
        if count > len(self._free_pages):
            return None
        split = len(self._free_pages) - count
        row.page_ids += self._free_pages[split:]
        del self._free_pages[split:]
        return [(row.row, index, row.page_ids[index]) for index in range(first, first + count)]

    def _sample(self, plan: StepPlan, counts: dict[Request, int]) -> dict[Request, tuple[int, ...]]:
        """Execute the plan, then a step for each further draft; one is in flight while the next is launched."""
        found: dict[Request, list[int]] = {request: [] for request in counts}
        in_flight: object = self._runner.execute_async(plan)
        for number in range(1, max(counts.values(), default=0) + 1):
            rows = tuple(self._rows[request].row for request, count in counts.items() if count > number)
            launched = self._runner.execute_async(StepPlan(0, decode_rows=rows)) if rows else None
            ids = self._runner.wait(in_flight)
            for request, drafts in found.items():
                if counts[request] >= number:
                    drafts.append(ids[self._rows[request].row])
            in_flight = launched
        if not counts:
            self._runner.wait(in_flight)
        for request, drafts in found.items():
            self._rows[request].computed += drafts[:-1]
        return {request: self._valid(drafts) for request, drafts in found.items() if self._valid(drafts)}

    def _valid(self, drafts: list[int]) -> tuple[int, ...]:
        """Those before an id that the other model does not have, or that is none."""
        bad = next((at for at, token_id in enumerate(drafts) if not 0 <= token_id < self._vocab_size), len(drafts))
        return tuple(drafts[:bad])
