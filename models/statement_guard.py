"""Refuses a statement that could touch rows of another application: a query that forgot the condition never runs.

Checks the text of each statement once. In it, every table whose rows belong to an application must be compared with one
(`dialogs.application_id = …`), and every other table with the row that it is a part of, as often as the statement reads
it. A row that was found before may be changed or deleted by its row id, which no other row has. Functions
marked `@cross_application` are exempt. Knows the tables only by what the metadata say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cached_property
from typing import Any

from sqlalchemy import Engine, MetaData, Table, event

from models.base import Base

crossing: ContextVar[bool] = ContextVar("crossing", default=False)
"""Whether the running query is marked `@cross_application`."""

SHARED_BY_ALL = frozenset({"default_prompts", "discord_application"})
"""Tables of the operator, which hold nothing of a tenant."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "turns": ("id", "dialog_id", "application_id"),
    "turn_files": ("turn_id",),
    "turn_prompts": ("turn_id", "persona_id", "summary_id"),
    "reply_variants": ("turn_id",),
    "delivery_messages": ("delivery_id",),
    "dialog_summaries": ("id", "dialog_id"),
    "memory_work": ("dialog_id", "owner"),
    "persona_versions": ("persona_id",),
    "persona_pictures": ("persona_id",),
    "report_speakers": ("report_id",),
}
"""Tables whose rows are parts of a row that is found before, and the columns that say of which."""

_MAX_KNOWN = 4096
_TABLE = r"\w+\b(?!\.)(?: AS \w+)?"
# The comma after a subquery may also be that of selected columns, which have a dot.
_FROM = re.compile(rf"(?:\b(?:FROM|JOIN|UPDATE|USING)|\) AS \w+,) (?P<tables>{_TABLE}(?:, {_TABLE})*)")
_INSERT = re.compile(r"INSERT INTO (?P<table>\w+) \((?P<columns>[^)]*)\)")


class StatementRefused(AssertionError):
    """A query forgot which application it serves. The text names the table."""


class StatementGuard:
    """The check of all tables of the metadata. `install` puts it before every statement of an engine."""

    def __init__(self, metadata: MetaData) -> None:
        self._metadata = metadata
        self._known: set[str] = set()

    @cached_property
    def _tables(self) -> dict[str, Table]:
        """All tables of tenants, once their modules have been imported."""
        return {table.name: table for table in self._metadata.sorted_tables if table.name not in SHARED_BY_ALL}

    def install(self, engine: Engine) -> None:
        """Check the statements of this engine from now on."""

        @event.listens_for(engine, "before_cursor_execute")
        def check(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
            if statement not in self._known and not crossing.get():
                self.check(statement)
                if len(self._known) >= _MAX_KNOWN:  # lists of parameters have many lengths
                    self._known.clear()
                self._known.add(statement)

    def check(self, statement: str) -> None:
        """Raise StatementRefused if the statement could touch rows of another application."""
        text = " ".join(statement.split())
        inserted = _INSERT.match(text)
        if inserted is not None:
            table, columns = inserted["table"], inserted["columns"].split(", ")
            if table in self._tables and "application_id" in {*self._tables[table].c.keys()} - {*columns}:
                raise StatementRefused(f"an INSERT into {table} names no application: {text}")
        read: dict[tuple[str, str], int] = {}
        for found in _FROM.finditer(text):
            for each in found["tables"].split(", "):
                table, _, alias = each.partition(" AS ")
                if table in self._tables:
                    read[table, alias or table] = read.get((table, alias or table), 0) + 1
        for (table, alias), times in read.items():
            if not self._is_limited(text, table, alias, times):
                raise StatementRefused(f"a statement on {table} names no application: {text}")

    def _is_limited(self, text: str, table: str, alias: str, times: int) -> bool:
        if table in PARTS:
            return sum(_num_comparisons(text, alias, column) for column in PARTS[table]) >= times
        if _num_comparisons(text, alias, "application_id") >= times:
            return True
        changed = text.split(" WHERE ")[0].split(" ")[:3]
        is_change = changed[:2] == ["UPDATE", table] or changed == ["DELETE", "FROM", table]
        has_row_id = [*self._tables[table].primary_key.columns.keys()] == ["id"]
        return is_change and times == 1 and has_row_id and _num_comparisons(text, alias, "id") > 0


def _num_comparisons(text: str, alias: str, column: str) -> int:
    """Count how often the column is compared with a value, another column or a list."""
    name = rf"\b{alias}\.{column}"
    return len(re.findall(rf"{name} (?:=|IN)|(?:=|IN) {name}\b", text))


GUARD = StatementGuard(Base.metadata)
"""The check of our tables."""
