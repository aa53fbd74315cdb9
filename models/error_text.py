"""Reduces the text of driver errors to what may be logged: what failed, never a value that a statement carried.

Postgres quotes values in DETAIL, HINT and CONTEXT lines ("Failing row contains (...)"), and in the first line of data
errors ("invalid input syntax for type integer: ..."). Python's sqlite3 quotes text that is not UTF-8. Those values are
members' messages. Knows the drivers by the names of their modules, so that neither has to be installed.
"""

from __future__ import annotations

from sqlalchemy.exc import StatementError

# SQLSTATE classes whose first line names tables, columns, constraints and settings only.
_SAFE_CLASSES = frozenset(
    "08 0A 0B 23 25 26 28 2B 2D 34 3B 3D 3F 40 42 53 54 55 57 58 F0 HV".split()  # noqa: SIM905  a table reads better
)
_SAFE_CLIENT_ERRORS = ("OperationalError", "InterfaceError", "ProgrammingError")
_QUOTED_TEXT = " with text '"  # sqlite3: Could not decode to UTF-8 column 'reply' with text '...'


def safe_text(error: BaseException) -> str:
    """Return the error's text as one line, without any value of a statement."""
    module = type(error).__module__
    if module.startswith("psycopg"):
        return _postgres_text(error)
    if module.startswith(("sqlite3", "aiosqlite")):
        return _sqlite_text(error)
    return _first_line(error)


def hide_values(error: BaseException) -> None:
    """Replace the texts of an SQLAlchemy error and of the driver errors behind it by safe ones, in place.

    In place, because a traceback prints the whole chain.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, StatementError) and link.orig is not None:
            kind = type(link.orig)
            link.args = (f"({kind.__module__}.{kind.__qualname__}) {safe_text(link.orig)}",)
            link.hide_parameters = True
        elif type(link).__module__.startswith(("psycopg", "sqlite3", "aiosqlite")):
            link.args = (safe_text(link),)
        link = link.__cause__ or link.__context__


def _postgres_text(error: BaseException) -> str:
    state = getattr(error, "sqlstate", None)
    if not isinstance(state, str):
        # The client's own errors: those about connections name hosts and options, those about data may quote it.
        return _first_line(error) if type(error).__name__ in _SAFE_CLIENT_ERRORS else _kind(error)
    if state[:2] in _SAFE_CLASSES:
        return _first_line(error)
    return f"{_kind(error)} (SQLSTATE {state})"


def _sqlite_text(error: BaseException) -> str:
    if getattr(error, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_TRIGGER":
        return "a trigger refused the statement"
    return _first_line(error).partition(_QUOTED_TEXT)[0]


def _first_line(error: BaseException) -> str:
    """Return the first line, or all of them where the first one only announces the others (several hosts)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return _kind(error)
    return " ".join(lines) if lines[0].endswith(":") else lines[0]


def _kind(error: BaseException) -> str:
    return type(error).__name__
