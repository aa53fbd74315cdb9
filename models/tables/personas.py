"""Personas: one per guild, channel or member of a guild, with all its versions. A rollback activates an older one."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime


class Persona(Base):
    """The persona of one guild, channel or member; its text is in PersonaVersion."""

    __tablename__ = "personas"
    __table_args__ = (
        CheckConstraint("level IN ('guild', 'channel', 'member')", name="level"),
        CheckConstraint("(level = 'channel') = (channel_id <> 0)", name="channel"),
        CheckConstraint("(level = 'member') = (user_id IS NOT NULL)", name="member"),
        Index(
            "uq_personas_guild",
            "guild_id",
            unique=True,
            sqlite_where=text("level = 'guild'"),
            postgresql_where=text("level = 'guild'"),
        ),
        Index(
            "uq_personas_channel",
            "guild_id",
            "channel_id",
            unique=True,
            sqlite_where=text("level = 'channel'"),
            postgresql_where=text("level = 'channel'"),
        ),
        Index(
            "uq_personas_member",
            "guild_id",
            "user_id",
            unique=True,
            sqlite_where=text("level = 'member'"),
            postgresql_where=text("level = 'member'"),
        ),
        Index("ix_personas_user_id", "user_id"),
        {"comment": "The persona slot of a guild, a channel or a member", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    guild_id: Mapped[int] = mapped_column(
        Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), comment="Guild the persona lives in"
    )
    level: Mapped[str] = mapped_column(Text, comment="guild, channel or member: the narrowest set one wins")
    channel_id: Mapped[int] = mapped_column(
        Snowflake, server_default="0", comment="Channel that the persona is for, else 0"
    )
    user_id: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="CASCADE"), comment="Member that the persona is for, else NULL"
    )
    active_version: Mapped[int | None] = mapped_column(comment="Version in force; NULL after clear")


class PersonaVersion(Base):
    """One version of a persona's text."""

    __tablename__ = "persona_versions"
    __table_args__ = (
        Index("ix_persona_versions_author_id", "author_id"),
        {"comment": "Every text a persona has had, so that a change can be rolled back"},
    )

    persona_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("personas.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Persona"
    )
    version: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="1, 2, 3, ... within the persona"
    )
    name: Mapped[str] = mapped_column(Text, comment="Display name")
    prompt: Mapped[str] = mapped_column(Text, comment="System prompt, sealed when encryption is on")
    author_id: Mapped[int | None] = mapped_column(
        Snowflake,
        ForeignKey("users.id", ondelete="SET NULL"),
        comment="Who wrote it; NULL once that person asked to be deleted",
    )
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was written")
