"""The personas that a guild or its members keep, with their versions and pictures, and where each of them answers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime

_GUILDS = text("owner_id IS NULL")
_OWN = text("owner_id IS NOT NULL")
_IN_PLACES = text("user_id IS NULL")
_OF_MEMBERS = text("user_id IS NOT NULL")


class Persona(Base):
    """An entry of a library: the guild's own, or a member's private one. Its text is in PersonaVersion."""

    __tablename__ = "personas"
    __table_args__ = (
        Index("uq_personas_guild", "guild_id", "name_key", unique=True, sqlite_where=_GUILDS, postgresql_where=_GUILDS),
        Index(
            "uq_personas_member",
            "guild_id",
            "owner_id",
            "name_key",
            unique=True,
            sqlite_where=_OWN,
            postgresql_where=_OWN,
        ),
        Index("ix_personas_guild_id", "guild_id"),
        Index("ix_personas_owner_id", "owner_id"),
        {"comment": "The personas that a guild or one of its members keeps, by name", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    guild_id: Mapped[int] = mapped_column(
        Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), comment="Guild the persona lives in"
    )
    owner_id: Mapped[int | None] = mapped_column(
        Snowflake,
        ForeignKey("users.id", ondelete="CASCADE"),
        comment="Member whose own it is; NULL for one of the guild",
    )
    active_version: Mapped[int] = mapped_column(comment="Version in force")
    name: Mapped[str] = mapped_column(Text, comment="Display name")
    name_key: Mapped[str] = mapped_column(
        Text, comment="The name without differences that do not matter; one a library"
    )
    tags: Mapped[str] = mapped_column(Text, server_default="[]", comment="JSON: list of words to find it by")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was made")
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it, or where it answers, last changed")
    age_restricted: Mapped[bool] = mapped_column(
        server_default=false(), comment="Whether it answers only in channels that Discord restricts by age"
    )


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
    card: Mapped[str | None] = mapped_column(
        Text, comment="JSON of the character card that it was made from, sealed when encryption is on"
    )


class PersonaPicture(Base):
    """The picture of a persona."""

    __tablename__ = "persona_pictures"
    __table_args__ = ({"comment": "Pictures of personas"},)

    persona_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("personas.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Persona"
    )
    media_type: Mapped[str] = mapped_column(Text, comment="Such as image/png")
    content: Mapped[str] = mapped_column(Text, comment="The file in base64, sealed when encryption is on")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was stored")


class PersonaAssignment(Base):
    """Where a persona answers: in a guild, in one of its places, or to one member wherever that is allowed."""

    __tablename__ = "persona_assignments"
    __table_args__ = (
        CheckConstraint("level IN ('guild', 'category', 'channel', 'thread', 'member')", name="level"),
        CheckConstraint("(level = 'member') = (user_id IS NOT NULL)", name="member"),
        CheckConstraint("(level IN ('guild', 'member')) = (place_id = 0)", name="place"),
        Index(
            "uq_persona_assignments_place",
            "guild_id",
            "place_id",
            unique=True,
            sqlite_where=_IN_PLACES,
            postgresql_where=_IN_PLACES,
        ),
        Index(
            "uq_persona_assignments_member",
            "guild_id",
            "user_id",
            unique=True,
            sqlite_where=_OF_MEMBERS,
            postgresql_where=_OF_MEMBERS,
        ),
        Index("ix_persona_assignments_guild_id", "guild_id"),
        Index("ix_persona_assignments_persona_id", "persona_id"),
        Index("ix_persona_assignments_user_id", "user_id"),
        Index("ix_persona_assignments_set_by", "set_by"),
        {"comment": "Which persona answers where; the narrowest one wins", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    guild_id: Mapped[int] = mapped_column(Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), comment="Guild")
    level: Mapped[str] = mapped_column(Text, comment="guild, category, channel, thread or member")
    place_id: Mapped[int] = mapped_column(
        Snowflake, server_default="0", comment="Category, channel or thread; 0 for the guild and for a member"
    )
    user_id: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="CASCADE"), comment="Member that it answers, else NULL"
    )
    persona_id: Mapped[int] = mapped_column(RowId, ForeignKey("personas.id", ondelete="CASCADE"), comment="Persona")
    set_by: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="SET NULL"), comment="Who chose it; NULL for the operator"
    )
    set_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was chosen")
