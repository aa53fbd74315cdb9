"""Tells which driver errors mean "the database is not available", and which of those are worth another try."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.errors import DatabaseUnavailable

# SQLSTATE classes: connection lost, transaction rolled back (serialisation, deadlock), operator intervention.
_TRANSIENT_CLASSES = ("08", "40", "57")
# Lock not available, too many connections.
_TRANSIENT_STATES = ("55P03", "53300")
_SQLITE_TRANSIENT = ("database is locked", "database table is locked", "database schema is locked")
# A table or column is missing, or the transaction cannot write: the schema or the file is not what we were promised.
_BROKEN_STATES = ("42P01", "42703", "25006")


def is_transient(error: BaseException) -> bool:
    """True when the same transaction, tried again from its beginning, may well succeed."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error, IntegrityError):
        return _lost_a_race(error)
    state = _sqlstate(error)
    if state is not None:
        return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES
    text = str(error.orig).lower()
    if isinstance(error, OperationalError) and any(sign in text for sign in _SQLITE_TRANSIENT):
        return True
    # libpq reports a server that is down or starting without a SQLSTATE.
    return _from_psycopg(error) and isinstance(error, OperationalError | InterfaceError)


def is_unavailable(error: BaseException) -> bool:
    """True for everything that is the database's condition rather than a mistake in a query."""
    if is_transient(error):
        return True
    if isinstance(error, IntegrityError) or not isinstance(error, DBAPIError):
        return False
    if isinstance(error, OperationalError | InterfaceError):
        return True
    if _sqlstate(error) in _BROKEN_STATES:
        return True
    # sqlite3 reports damage as a bare DatabaseError; SQLAlchemy wraps it in exactly that class.
    text = str(error.orig).lower()
    return "malformed" in text or "not a database" in text


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """The error for the layers above: one line, without SQL or parameters."""
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("every database connection is busy")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    return DatabaseUnavailable(lines[0] if lines else type(cause).__name__)


def _lost_a_race(error: IntegrityError) -> bool:
    """A row we had just seen, or inserted, was deleted or inserted by someone else: a fresh look settles it."""
    return _sqlstate(error) in ("23503", "23505")


def _sqlstate(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _from_psycopg(error: DBAPIError) -> bool:
    return type(error.orig).__module__.startswith("psycopg")
