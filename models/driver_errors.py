"""Classifies driver errors: which mean that the database is unavailable, and which of those are worth a retry."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.error_text import safe_text
from models.errors import DatabaseUnavailable

# SQLSTATE classes: connection exception, transaction rollback (serialization, deadlock), operator intervention.
_TRANSIENT_CLASSES = ("08", "40", "57")
# SQLSTATEs: lock not available, too many connections.
_TRANSIENT_STATES = ("55P03", "53300")
_SQLITE_TRANSIENT = ("database is locked", "database table is locked", "database schema is locked")
# SQLSTATEs: undefined table, undefined column, read-only transaction.
_UNUSABLE_STATES = ("42P01", "42703", "25006")
# SQLSTATEs: a prepared statement that does not exist, or exists already.
_PREPARED_STATES = ("26000", "42P05")
_POOLER = "a prepared statement is gone: there is a pooler in between. Take prepare_threshold out of the database URL"


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is retried from its beginning."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error, IntegrityError):
        return _is_key_conflict(error)
    state = _sqlstate(error)
    if state is not None:
        return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES
    text = str(error.orig).lower()
    if isinstance(error, OperationalError) and any(sign in text for sign in _SQLITE_TRANSIENT):
        return True
    # libpq gives no SQLSTATE for a server that is down or starting.
    return _from_psycopg(error) and isinstance(error, OperationalError | InterfaceError)


def is_unavailable(error: BaseException) -> bool:
    """Whether the cause is the state of the database rather than a bug in a query."""
    if is_transient(error):
        return True
    if isinstance(error, IntegrityError) or not isinstance(error, DBAPIError):
        return False
    if isinstance(error, OperationalError | InterfaceError):
        return True
    if _sqlstate(error) in _UNUSABLE_STATES + _PREPARED_STATES:
        return True
    # sqlite3 reports a damaged file as a plain DatabaseError, with only the text to tell it by.
    text = str(error.orig).lower()
    return "malformed" in text or "not a database" in text


def to_unavailable(error: BaseException) -> DatabaseUnavailable:
    """Return the error for the layers above: one line, without SQL or parameters."""
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("every database connection is busy")
    if isinstance(error, DBAPIError) and _sqlstate(error) in _PREPARED_STATES:
        return DatabaseUnavailable(_POOLER)
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return DatabaseUnavailable(safe_text(cause))


def _is_key_conflict(error: IntegrityError) -> bool:
    """Whether a concurrent transaction deleted the row we refer to or inserted our key: a retry sees what it did."""
    return _sqlstate(error) in ("23503", "23505")


def _sqlstate(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _from_psycopg(error: DBAPIError) -> bool:
    return type(error.orig).__module__.startswith("psycopg")
