"""A runner without a model, whose pages remember what was written: the next token is a hash of what a row really reads.

A page that is shared wrongly, granted too early, or overwritten while somebody still reads it changes somebody's reply.
"""

import hashlib
from collections.abc import Sequence

from engine.layers.sampler import signed64
from engine.scheduler.step_plan import PrefillChunk, StepPlan

VOCAB = 7  # few, so that prompts and replies share pages often


def next_token(tokens: Sequence[int], seed: int = 0) -> int:
    """What the machine says after `tokens`, all by itself."""
    return hashlib.sha256(repr((list(tokens), seed)).encode()).digest()[0] % VOCAB


def alone(prompt: Sequence[int], length: int, stop: frozenset[int] = frozenset(), seed: int = 0) -> list[int]:
    """The whole reply to a prompt in an empty machine."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < length:
        token = next_token(tokens, seed)
        if token in stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


class PageMachine:
    """Obeys plans as a runner must. `collect` may come one step late."""

    def __init__(self, rows: int, pages: int, page: int) -> None:
        self.page = page
        self._memory: list[list[int | None]] = [[None] * page for _ in range(pages)]
        self._tables: list[list[int] | None] = [None] * rows
        self._fed = [0] * rows
        self._last = [0] * rows
        self._seeds = [0] * rows

    def launch(self, plan: StepPlan) -> dict[int, int]:
        for row in plan.freed_rows:
            self._tables[row] = None
        for setup in plan.new_sequences:
            if self._tables[setup.row] is not None:
                raise AssertionError(f"row {setup.row} is taken")
            self._tables[setup.row], self._fed[setup.row], self._seeds[setup.row] = [], 0, setup.seed
        for row, index, page in plan.page_grants:
            table = self._table(row)
            if index != len(table):
                raise AssertionError(f"grant {index} for a table of {len(table)}")
            table.append(page)
        work = [
            *plan.chunks,
            *(PrefillChunk(row, self._fed[row], (self._last[row],), True) for row in plan.decode_rows),
        ]
        rows = [chunk.row for chunk in work]
        if len(rows) != len(set(rows)) or not rows:
            raise AssertionError(f"rows {rows}")
        for chunk in work:  # all writes come before any read
            table = self._table(chunk.row)
            for position, token in enumerate(chunk.token_ids, chunk.start):
                self._memory[table[position // self.page]][position % self.page] = token
            self._fed[chunk.row] = chunk.start + len(chunk.token_ids)
        ids = {}
        for chunk in work:
            if chunk.is_last:
                token = next_token(self._read(chunk.row), signed64(self._seeds[chunk.row]))
                ids[chunk.row] = self._last[chunk.row] = token
        return ids

    def collect(self, ids: dict[int, int]) -> dict[int, int]:
        return ids

    def _table(self, row: int) -> list[int]:
        table = self._tables[row]
        if table is None:
            raise AssertionError(f"row {row} was never set up")
        return table

    def _read(self, row: int) -> list[int]:
        table, out = self._table(row), []
        for position in range(self._fed[row]):
            token = self._memory[table[position // self.page]][position % self.page]
            if token is None:
                raise AssertionError(f"row {row} reads position {position}, which nobody wrote")
            out.append(token)
        return out
