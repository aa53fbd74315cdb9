"""What is remembered beyond the pairs of a prompt: summaries of dialogs, facts of members, and who works on them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime, application_column, in_application


class DialogSummary(Base):
    """What a dialog was about, from its first pair to one that no prompt contains any more.

    The newest one holds. It goes as soon as a pair that it covers is changed or deleted.
    """

    __tablename__ = "dialog_summaries"
    __table_args__ = (
        CheckConstraint("from_turn_id <= to_turn_id", name="range"),
        Index("ix_dialog_summaries_dialog", "dialog_id", "to_turn_id"),
        {"comment": "What the earlier part of a dialog was about, as the model wrote it", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    dialog_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("dialogs.id", ondelete="CASCADE"), comment="Dialog that it is about"
    )
    from_turn_id: Mapped[int] = mapped_column(RowId, comment="First turn that it covers")
    to_turn_id: Mapped[int] = mapped_column(RowId, comment="Last turn that it covers")
    text: Mapped[str] = mapped_column(Text, comment="The summary, sealed when encryption is on")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was written")


class Fact(Base):
    """A sentence about a member that their messages told, or that they wrote themselves. It never leaves its guild."""

    __tablename__ = "facts"
    __table_args__ = (
        in_application("guilds", "guild_id"),
        in_application("users", "user_id"),
        Index("ix_facts_member", "guild_id", "user_id", "application_id"),
        Index("ix_facts_user_id", "user_id", "application_id"),
        Index("ix_facts_source_turn_id", "source_turn_id"),
        Index("ix_facts_last_used_at", "last_used_at", "application_id"),
        {"comment": "What is remembered about a member in a guild, a sentence each", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    application_id: Mapped[int] = application_column()
    guild_id: Mapped[int] = mapped_column(Snowflake, comment="Guild, 0 for direct messages")
    user_id: Mapped[int] = mapped_column(Snowflake, comment="Member")
    text: Mapped[str] = mapped_column(Text, comment="The sentence, sealed when encryption is on")
    source_turn_id: Mapped[int | None] = mapped_column(
        RowId, comment="Turn that told it, which may have expired; NULL if the member wrote it"
    )
    source_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was said")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was written here")
    last_used_at: Mapped[datetime] = mapped_column(
        UTCDateTime, comment="When a prompt last had it, at first as created_at; retention counts from here"
    )
    edited: Mapped[bool] = mapped_column(server_default=false(), comment="Whether the member wrote or changed it")
    private: Mapped[bool] = mapped_column(
        server_default=false(), comment="Whether only the member saw the reply; in no prompt of a shared dialog then"
    )


class MemoryWork(Base):
    """How far the facts of a dialog have been looked for, and which process writes its memory now."""

    __tablename__ = "memory_work"
    __table_args__ = ({"comment": "Dialogs whose summary and facts are written, one process at a time"},)

    dialog_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("dialogs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Dialog"
    )
    facts_to_turn_id: Mapped[int] = mapped_column(
        RowId, server_default="0", comment="Last turn whose message was looked at for facts"
    )
    owner: Mapped[str | None] = mapped_column(Text, comment="Process that writes now, as in turns.owner")
    claimed_at: Mapped[datetime | None] = mapped_column(UTCDateTime, comment="Since when it does")
    failures: Mapped[int] = mapped_column(server_default="0", comment="Attempts in a row that came to nothing")
    retry_at: Mapped[datetime | None] = mapped_column(UTCDateTime, comment="Not to be tried again before")
