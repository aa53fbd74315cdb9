"""Shared by the query modules: the session's codec and attempt number, the key filter, inserts and upserts, pages.

Building a statement can take longer than running it. What every message runs is therefore built once, at
module level or in a cached function of the dialect, with `bindparam`s for what differs; `rows_of` or `change` runs it.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Executable,
    Select,
    and_,
    bindparam,
    literal_column,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.selectable import TypedReturnsRows

from models.application import ours
from models.encryption import TextCodec
from models.tables import Base, Dialog, Guild, User
from models.types import DialogKey

Columns = TypeVarTuple("Columns")
T = TypeVar("T")


def codec(session: AsyncSession) -> TextCodec:
    """Return the text codec of the session's Database. Raises TypeError for a session of another origin."""
    text_codec = session.info.get("codec")
    if not isinstance(text_codec, TextCodec):
        raise TypeError("queries need a session of models.database.Database")
    return text_codec


def attempt_number(session: AsyncSession) -> int:
    """Return which attempt of the transaction this is: 1, or more when Database.run retries it."""
    return int(session.info.get("attempt", 1))


async def rows_of(
    session: AsyncSession, statement: TypedReturnsRows[*Columns], values: dict[str, Any]
) -> CursorResult[*Columns]:
    """Run a statement that was built before, with these values for its parameters, and return its rows.

    On the connection: the rows are no objects of the session, and the session does not learn what was changed.
    """
    return await _connection(session).execute(statement, values)


async def change(session: AsyncSession, statement: Executable, values: dict[str, Any]) -> None:
    """Run a statement that was built before and returns no rows."""
    await _connection(session).execute(statement, values)


def _connection(session: AsyncSession) -> AsyncConnection:
    connection = session.info.get("connection")
    if not isinstance(connection, AsyncConnection):
        raise TypeError("queries need a session of models.database.Database")
    return connection


def matches_key(key: DialogKey) -> ColumnElement[bool]:
    """Return the condition that a Dialog belongs to this key."""
    return and_(
        ours(Dialog),
        Dialog.guild_id == key.guild_id,
        Dialog.user_id == key.owner_id,
        Dialog.channel_id == key.channel_id,
    )


def matches_key_values() -> ColumnElement[bool]:
    """Return the same condition for a statement that is built once: `key_values` names the key when it is run."""
    return and_(
        ours(Dialog),
        Dialog.guild_id == bindparam("key_guild_id"),
        Dialog.user_id == bindparam("key_owner_id"),
        Dialog.channel_id == bindparam("key_channel_id"),
    )


def key_values(key: DialogKey) -> dict[str, Any]:
    """Return the parameters of `matches_key_values`."""
    return {"key_guild_id": key.guild_id, "key_owner_id": key.owner_id, "key_channel_id": key.channel_id}


def is_open() -> ColumnElement[bool]:
    """Return the condition that a Dialog is the one in use of its key: neither ended nor parked."""
    return and_(Dialog.ended_at.is_(None), Dialog.parked_at.is_(None))


def dialect(session: AsyncSession) -> str:
    """Return the name of the session's SQL dialect."""
    return session.get_bind().dialect.name


def insert(on: AsyncSession | str, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT with ON CONFLICT: the same SQL on both databases, but a class per dialect in SQLAlchemy.

    `on`: the session, or the name of its dialect.
    """
    name = on if isinstance(on, str) else dialect(on)
    return sqlite.insert(table) if name == "sqlite" else postgresql.insert(table)


@cache
def _insert_if_absent(on: str, table: type[Base]) -> TypedReturnsRows[int]:
    # RETURNING tells, because drivers disagree on the row count of an insert that did nothing.
    one: ColumnElement[int] = literal_column("1")
    return insert(on, table).on_conflict_do_nothing().returning(one)


async def insert_if_absent(session: AsyncSession, table: type[Base], **values: Any) -> bool:
    """Insert a row, or do nothing on a conflict. True if it was inserted."""
    return (await rows_of(session, _insert_if_absent(dialect(session), table), values)).first() is not None


async def upsert(session: AsyncSession, table: type[Base], identity: dict[str, int], values: dict[str, Any]) -> None:
    """Insert the row with this primary key, of which `identity` has all but the application, or update it.

    The session does not learn of it: `session.get` needs `populate_existing`.
    """
    put = insert(session, table).values(**identity, **values)
    await session.execute(put.on_conflict_do_update(index_elements=[*identity, "application_id"], set_=values))


async def page_of(
    session: AsyncSession,
    rows: Select[T],
    row_id: InstrumentedAttribute[int],
    *,
    before: int | None,
    after: int | None,
    limit: int,
) -> list[T]:
    """Return rows, newest first: the last ones, those before the id `before`, or the first after the id `after`."""
    if after is not None:
        page = (await session.scalars(rows.where(row_id > after).order_by(row_id).limit(limit))).all()
        return [*reversed(page)]
    older = rows if before is None else rows.where(row_id < before)
    return [*await session.scalars(older.order_by(row_id.desc()).limit(limit))]


async def count_rows(session: AsyncSession, statement: Select[Any]) -> int:
    """Return the value of a SELECT count(...)."""
    return int(await session.scalar(statement) or 0)


def num_deleted(result: object) -> int:
    """Return the row count of a DELETE."""
    return int(getattr(result, "rowcount", 0))


async def ensure_guild(session: AsyncSession, guild_id: int, now: datetime) -> None:
    """Insert the guild that a foreign key is about to refer to, if it is not stored yet."""
    await insert_if_absent(session, Guild, id=guild_id, first_seen_at=now)


async def ensure_user(session: AsyncSession, user_id: int, now: datetime) -> None:
    """Insert the user that a foreign key is about to refer to, if it is not stored yet."""
    await insert_if_absent(session, User, id=user_id, first_seen_at=now)
