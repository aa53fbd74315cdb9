"""How personas are seen in a guild: as the bot's own profile there, and together in scenes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime, application_column, in_application


class GuildProfile(Base):
    """What the bot's own profile in a guild shows; a missing row means that it was never changed there."""

    __tablename__ = "guild_profiles"
    __table_args__ = (
        in_application("guilds", "guild_id"),
        {"comment": "What the bot is called in a guild where it has a profile of its own"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    application_id: Mapped[int] = application_column(primary_key=True)
    persona_id: Mapped[int | None] = mapped_column(RowId, comment="Persona that the profile shows; NULL: none")
    fingerprint: Mapped[str] = mapped_column(Text, comment="Hash of the name and picture that Discord was sent last")
    problem: Mapped[str | None] = mapped_column(
        Text, comment="Why it may not be shown: sending, slower, forbidden or refused"
    )
    sent_at: Mapped[datetime] = mapped_column(
        UTCDateTime, comment="When they were sent; the next change waits from here"
    )


class Scene(Base):
    """A channel or thread in which several characters answer."""

    __tablename__ = "scenes"
    __table_args__ = (
        in_application("guilds", "guild_id"),
        CheckConstraint("speak IN ('turn', 'model')", name="speak"),
        {"comment": "Channels and threads in which several characters answer"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    place_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Channel or thread")
    application_id: Mapped[int] = application_column(primary_key=True)
    speak: Mapped[str] = mapped_column(
        Text,
        server_default="turn",
        comment="Who speaks if the message names no character: in turn, or as the model chooses",
    )


class SceneCharacter(Base):
    """A persona of the guild that plays in a scene."""

    __tablename__ = "scene_characters"
    __table_args__ = (
        ForeignKeyConstraint(
            ["guild_id", "place_id", "application_id"],
            ["scenes.guild_id", "scenes.place_id", "scenes.application_id"],
            ondelete="CASCADE",
        ),
        Index("ix_scene_characters_persona_id", "persona_id"),
        {"comment": "The characters of a scene"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    place_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Channel or thread")
    persona_id: Mapped[int] = mapped_column(
        RowId,
        ForeignKey("personas.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="Persona of the guild",
    )
    application_id: Mapped[int] = application_column(primary_key=True)
    position: Mapped[int] = mapped_column(comment="Its turn among the others")
