"""What the query modules share: the session's codec, key filters, and inserts that tolerate a row that is there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from models.encryption import TextCodec
from models.tables import Base, Dialog, Guild, User
from models.types import DialogKey


def codec(session: AsyncSession) -> TextCodec:
    found = session.info.get("codec")
    if not isinstance(found, TextCodec):
        raise TypeError("queries need a session of models.database.Database")
    return found


def attempt(session: AsyncSession) -> int:
    """1 unless Database.run is trying this transaction again."""
    return int(session.info.get("attempt", 1))


def of_dialog(key: DialogKey) -> ColumnElement[bool]:
    return and_(Dialog.guild_id == key.guild_id, Dialog.user_id == key.user_id, Dialog.channel_id == key.channel_id)


def insert(session: AsyncSession, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, which both databases spell alike and SQLAlchemy keeps per dialect."""
    return sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


async def insert_missing(session: AsyncSession, table: type[Base], **values: Any) -> bool:
    """Inserts a row unless it is there. True if it was inserted."""
    # By what comes back, since drivers disagree about the row count of an insert that did nothing.
    attempted = insert(session, table).values(**values).on_conflict_do_nothing()
    one: ColumnElement[int] = literal_column("1")
    return await session.scalar(attempted.returning(one)) is not None


async def ensure_guild(session: AsyncSession, guild_id: int, now: datetime) -> None:
    await insert_missing(session, Guild, id=guild_id, first_seen_at=now)


async def ensure_user(session: AsyncSession, user_id: int, now: datetime) -> None:
    await insert_missing(session, User, id=user_id, first_seen_at=now)
