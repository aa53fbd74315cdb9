"""What changed in the rows since the last plan: the runners learn of it at the start of the next step."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.scheduler.request import Request
from engine.scheduler.step_plan import NewSequence, float32


@dataclass(frozen=True, slots=True)
class RowChanges:
    """The fields of the same names in a StepPlan."""

    new_sequences: tuple[NewSequence, ...]
    page_grants: tuple[tuple[int, int, int], ...]
    freed_rows: tuple[int, ...]


class RowUpdates:
    """Collects changes between two plans. A plan may follow long after a row was freed."""

    def __init__(self) -> None:
        self._new_sequences: list[NewSequence] = []
        self._freed_rows: list[int] = []

    def enter(self, request: Request) -> None:
        """The request got its row. No page of it has been granted."""
        params = request.params
        self._new_sequences.append(
            NewSequence(
                request.row,
                float32(params.temperature),
                float32(params.top_p),
                request.seed,
                request.is_adjusted,
                request.adjustment(),
                params.num_logprobs,
            )
        )
        request.num_sent_pages = 0

    def leave(self, row: int) -> None:
        """The row is free again. A sequence that no plan has named yet is dropped."""
        self._new_sequences = [sequence for sequence in self._new_sequences if sequence.row != row]
        self._freed_rows.append(row)

    def take(self, running: Iterable[Request]) -> RowChanges:
        """All changes, with the pages that the running requests got; afterwards there are none."""
        grants = []
        for request in running:
            page_ids = request.page_table.page_ids
            grants += [(request.row, index, page_ids[index]) for index in range(request.num_sent_pages, len(page_ids))]
            request.num_sent_pages = len(page_ids)
        changes = RowChanges(tuple(self._new_sequences), tuple(grants), tuple(self._freed_rows))
        self._new_sequences, self._freed_rows = [], []
        return changes
