"""Whose rows a transaction may touch: those of one Discord application. It is a part of every tenant's key.

`Database` sets the application for the length of a transaction. Queries name it by `ours`, a condition whose value is
read when the statement runs, so that statements that are built once have it too; rows that are inserted get it from
the default of their column. Knows no tables and no queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, bindparam
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm.util import AliasedClass

TERMINAL = 0
"""The application of what is said in the terminal. Until a bot was started, everything belongs to it."""

_application: ContextVar[int] = ContextVar("application", default=TERMINAL)


@contextmanager
def acting_for(application_id: int) -> Iterator[None]:
    """Let the statements of this block touch the rows of this application only."""
    before = _application.get()
    _application.set(application_id)
    try:
        yield
    finally:
        _application.set(before)  # not by a token: a fixture may leave the block in another context


def current_application() -> int:
    """Return the application of the running transaction; outside of one, the terminal."""
    return _application.get()


THIS_APPLICATION = bindparam("this_application", callable_=current_application, type_=BigInteger())
"""The application of the transaction, as a parameter of a statement."""


def ours(table: type[Any] | AliasedClass[Any]) -> ColumnElement[bool]:
    """Return the condition that a row of the table, or of an alias of it, belongs to this application."""
    column: InstrumentedAttribute[int] = table.application_id
    return column == THIS_APPLICATION
