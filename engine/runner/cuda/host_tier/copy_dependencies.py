"""Which copies a step must wait for, when copies run beside the steps and in their own order.

The copies of a plan are a batch; batches are numbered from 1. A row depends on a batch that writes a page which it
holds, and on one that reads or writes a page before the row is granted it. A step depends on the batches of the rows
that compute in it. What is saved of a row's own pages is only read, by the row and by the copy.

It knows plans and numbers. It does not know streams.
"""

from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.step_plan import StepPlan


class CopyDependencies:
    """Sees every plan, in order."""

    def __init__(self) -> None:
        self.last_batch = 0
        self._waited_batch = 0  # steps run after this one and all before it
        self._batch_of_page: dict[int, int] = {}  # the last batch that reads or writes it
        self._batch_of_row: dict[int, int] = {}  # the last batch that the row's next step depends on
        self._pages_of_row: dict[int, list[int]] = {}
        self._rows_of_page: dict[int, set[int]] = {}

    def batch_before_duplicates(self, copies: PageCopies) -> int | None:
        """The batch that must have ended before the plan's duplicates are made; None: no further one.

        Ask this first.
        """
        batch = max((self._batch_of_page.get(page_id, 0) for copy in copies.duplicates for page_id in copy), default=0)
        if batch <= self._waited_batch:
            return None
        self._waited_batch = batch
        return batch

    def batch_to_wait_for(self, plan: StepPlan) -> int | None:
        """The batch that must have ended before the plan's step, and with it all before it; None: no further one."""
        copies = plan.copies
        if copies:
            self.last_batch += 1
        for row in plan.freed_rows:
            self._free(row)
        for row, _, page_id in plan.page_grants:
            self._pages_of_row.setdefault(row, []).append(page_id)
            self._rows_of_page.setdefault(page_id, set()).add(row)
        if self._waited_batch == self.last_batch:
            self._batch_of_page.clear()
            self._batch_of_row.clear()
            return None
        for page_id in (
            *copies.overwritten_pages,
            *(page_id for _, page_id in copies.restores),
            *(page_id for page_id, _ in copies.saves),
        ):
            self._batch_of_page[page_id] = self.last_batch
        for row, _, page_id in plan.page_grants:
            batch = self._batch_of_page.get(page_id, 0)
            self._batch_of_row[row] = max(batch, self._batch_of_row.get(row, 0))
        # Rows that were granted the page by an earlier plan: a step restores a limited number of pages.
        for _, page_id in copies.restores:
            for row in self._rows_of_page.get(page_id, ()):
                self._batch_of_row[row] = self.last_batch
        rows = (*(each.row for each in plan.chunks), *(each.row for each in plan.verifications), *plan.decode_rows)
        batch = max((self._batch_of_row.pop(row, 0) for row in rows), default=0)
        if batch <= self._waited_batch:
            return None
        self._waited_batch = batch
        return batch

    def _free(self, row: int) -> None:
        self._batch_of_row.pop(row, None)
        for page_id in self._pages_of_row.pop(row, ()):
            rows = self._rows_of_page[page_id]
            rows.discard(row)
            if not rows:
                del self._rows_of_page[page_id]
