"""Guilds and users, the two halves of a tenant key. Rows hold snowflakes and times only, never names."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Snowflake, UTCDateTime, application_column

_REMOVED = text("removed_at IS NOT NULL")


class Guild(Base):
    """A guild that the bot has talked in; id 0 stands for direct messages."""

    __tablename__ = "guilds"
    __table_args__ = (
        Index("ix_guilds_removed_at", "application_id", "removed_at", sqlite_where=_REMOVED, postgresql_where=_REMOVED),
        {"comment": "Guilds a bot has talked in; 0 stands for direct messages"},
    )

    id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Snowflake of the guild")
    application_id: Mapped[int] = application_column(primary_key=True)
    first_seen_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When the first row of this guild was written")
    joined_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime, comment="When the gateway first named it; NULL for a guild known from the terminal only"
    )
    removed_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime, comment="When the bot was removed; the guild is purged after a grace period unless it comes back"
    )


class User(Base):
    """A person who has talked with the bot, or acted as an admin."""

    __tablename__ = "users"
    __table_args__ = ({"comment": "People a bot has talked with"},)

    id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Snowflake of the user")
    application_id: Mapped[int] = application_column(primary_key=True)
    first_seen_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When the first row of this user was written")
