"""What the admins of a guild do about members and answers: blocks, deletions that can be taken back, reports."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime


class MemberBlock(Base):
    """A member who may not talk with the bot in one guild.

    `user_id` is no foreign key: like an opt-out, a block outlives the deletion of the member's data. Its reason does
    not.
    """

    __tablename__ = "member_blocks"
    __table_args__ = (
        Index("ix_member_blocks_user_id", "user_id"),
        Index("ix_member_blocks_until", "until"),
        Index("ix_member_blocks_blocked_by", "blocked_by"),
        {"comment": "Members who may not talk with me in a guild; outlives the deletion of their data"},
    )

    guild_id: Mapped[int] = mapped_column(
        Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Guild"
    )
    user_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Member")
    blocked_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="Since when")
    until: Mapped[datetime | None] = mapped_column(UTCDateTime, comment="When it ends by itself; NULL: for good")
    blocked_by: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="SET NULL"), comment="Admin who did it"
    )
    reason: Mapped[str | None] = mapped_column(
        Text, comment="What the admin wrote, which the member reads; sealed when encryption is on"
    )


class Purge(Base):
    """Conversations that an admin deleted some minutes ago: hidden, and still to be brought back.

    The dialogs name the row. It goes when they are deleted, or brought back.
    """

    __tablename__ = "purges"
    __table_args__ = (
        Index("ix_purges_guild_id", "guild_id"),
        Index("ix_purges_due_at", "due_at"),
        {"comment": "Deletions of conversations that can still be taken back", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    guild_id: Mapped[int] = mapped_column(Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), comment="Guild")
    requested_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When an admin asked for it")
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When the conversations are deleted")


class Report(Base):
    """An answer that a member reported to the admins, with a copy of what was said."""

    __tablename__ = "reports"
    __table_args__ = (
        Index("ix_reports_guild_id", "guild_id", "id"),
        Index("ix_reports_author_id", "author_id"),
        Index("ix_reports_reporter_id", "reporter_id"),
        Index("ix_reports_closed_by", "closed_by"),
        Index("ix_reports_created_at", "created_at"),
        {"comment": "Answers of mine that members reported, kept for the admins", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    guild_id: Mapped[int] = mapped_column(Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), comment="Guild")
    channel_id: Mapped[int] = mapped_column(Snowflake, comment="Where it was reported")
    source_turn_id: Mapped[int] = mapped_column(RowId, comment="Turn of the answer, which may be gone since")
    author_id: Mapped[int] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="CASCADE"), comment="Whose message was answered; it goes with them"
    )
    reporter_id: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="SET NULL"), comment="Who reported it"
    )
    reason: Mapped[str | None] = mapped_column(
        Text, comment="What the reporter wrote, sealed when encryption is on; NULL once their data was deleted"
    )
    pair: Mapped[str] = mapped_column(Text, comment="JSON: message and answer, sealed when encryption is on")
    prompt: Mapped[str | None] = mapped_column(
        Text,
        comment="JSON: the prompt as it could be built again, sealed when encryption is on; NULL if there is none, or "
        "if somebody whose words were in it had their data deleted",
    )
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was reported; it is kept for some days")
    closed_at: Mapped[datetime | None] = mapped_column(UTCDateTime, comment="When an admin closed it; NULL while open")
    closed_by: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="SET NULL"), comment="Who closed it"
    )


class ReportSpeaker(Base):
    """Somebody else whose words stand in the prompt of a report: its copy goes when their data does."""

    __tablename__ = "report_speakers"
    __table_args__ = (
        Index("ix_report_speakers_user_id", "user_id"),
        {"comment": "Others than the asker whose words are in the prompt of a report"},
    )

    report_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Report"
    )
    user_id: Mapped[int] = mapped_column(
        Snowflake, primary_key=True, autoincrement=False, comment="Who; they may never have talked with the bot"
    )


class ReportChannel(Base):
    """The channel in which a guild's admins want to read that something was reported."""

    __tablename__ = "report_channels"
    __table_args__ = ({"comment": "Where admins read that an answer was reported; never what it says"},)

    guild_id: Mapped[int] = mapped_column(
        Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Guild"
    )
    channel_id: Mapped[int] = mapped_column(Snowflake, comment="Channel or thread")
