"""Shared by the query modules: the session's codec and attempt number, the key filter, inserts that skip conflicts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from models.encryption import TextCodec
from models.tables import Base, Dialog, Guild, User
from models.types import DialogKey


def codec(session: AsyncSession) -> TextCodec:
    """Return the text codec of the session's Database. Raises TypeError for a session of another origin."""
    text_codec = session.info.get("codec")
    if not isinstance(text_codec, TextCodec):
        raise TypeError("queries need a session of models.database.Database")
    return text_codec


def attempt_number(session: AsyncSession) -> int:
    """Return which attempt of the transaction this is: 1, or more when Database.run retries it."""
    return int(session.info.get("attempt", 1))


def matches_key(key: DialogKey) -> ColumnElement[bool]:
    """Return the condition that a Dialog belongs to this key."""
    return and_(Dialog.guild_id == key.guild_id, Dialog.user_id == key.owner_id, Dialog.channel_id == key.channel_id)


def is_open() -> ColumnElement[bool]:
    """Return the condition that a Dialog is the one in use of its key: neither ended nor parked."""
    return and_(Dialog.ended_at.is_(None), Dialog.parked_at.is_(None))


def insert(session: AsyncSession, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT with ON CONFLICT: the same SQL on both databases, but a class per dialect in SQLAlchemy."""
    return sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


async def insert_if_absent(session: AsyncSession, table: type[Base], **values: Any) -> bool:
    """Insert a row, or do nothing on a conflict. True if it was inserted."""
    # RETURNING tells, because drivers disagree on the row count of an insert that did nothing.
    statement = insert(session, table).values(**values).on_conflict_do_nothing()
    one: ColumnElement[int] = literal_column("1")
    return await session.scalar(statement.returning(one)) is not None


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
