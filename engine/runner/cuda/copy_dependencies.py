"""Which copies a step must wait for, when copies run beside the steps and in their own order.

The copies of a plan are a batch; batches are numbered from 1. A step depends on a batch if a row that computes in it
was granted a page that the batch reads or writes. Rows that were granted nothing since do not depend on any: what is
saved of them is only read.

It knows plans and numbers. It does not know streams.
"""

from engine.scheduler.step_plan import StepPlan


class CopyDependencies:
    """Sees every plan, in order."""

    def __init__(self) -> None:
        self.last_batch = 0
        self._waited_batch = 0  # steps run after this one and all before it
        self._batch_of_page: dict[int, int] = {}  # the last batch that reads or writes it
        self._batch_of_row: dict[int, int] = {}  # the last batch that the row's next step depends on

    def batch_to_wait_for(self, plan: StepPlan) -> int | None:
        """The batch that must have ended before the plan's step, and with it all before it; None: no further one."""
        copies = plan.copies
        if copies:
            self.last_batch += 1
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
        for row in plan.freed_rows:
            self._batch_of_row.pop(row, None)
        for row, _, page_id in plan.page_grants:
            batch = self._batch_of_page.get(page_id, 0)
            self._batch_of_row[row] = max(batch, self._batch_of_row.get(row, 0))
        rows = (*(chunk.row for chunk in plan.chunks), *plan.decode_rows)
        batch = max((self._batch_of_row.pop(row, 0) for row in rows), default=0)
        if batch <= self._waited_batch:
            return None
        self._waited_batch = batch
        return batch
