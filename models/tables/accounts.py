"""Records about use: daily usage, opt-outs, the audit log, and processed interactions."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import CheckConstraint, Date, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime


class DailyUsage(Base):
    """Finished turns and tokens of one member in one guild on one UTC day."""

    __tablename__ = "daily_usage"
    __table_args__ = (
        CheckConstraint("turns >= 0 AND prompt_tokens >= 0 AND completion_tokens >= 0", name="counts"),
        CheckConstraint("more_replies >= 0", name="more_replies"),
        Index("ix_daily_usage_user_id", "user_id"),
        Index("ix_daily_usage_day", "day"),
        Index("ix_daily_usage_guild_day", "guild_id", "day"),
        {"comment": "Finished turns and tokens of each member of each guild by UTC day"},
    )

    guild_id: Mapped[int] = mapped_column(
        Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Guild"
    )
    user_id: Mapped[int] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Member"
    )
    day: Mapped[date] = mapped_column(Date, primary_key=True, comment="UTC day")
    turns: Mapped[int] = mapped_column(comment="Finished turns")
    prompt_tokens: Mapped[int] = mapped_column(comment="Tokens of their prompts")
    completion_tokens: Mapped[int] = mapped_column(comment="Tokens of their replies")
    more_replies: Mapped[int] = mapped_column(
        server_default="0", comment="Further replies to earlier turns; a daily number of messages counts them too"
    )


class OptOut(Base):
    """A user whose messages are not stored."""

    __tablename__ = "opt_outs"
    __table_args__ = ({"comment": "People of whom no message is stored; outlives the deletion of their data"},)

    user_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Who opted out")
    since: Mapped[datetime] = mapped_column(UTCDateTime, comment="When they opted out")


class AuditEntry(Base):
    """One action of an admin or the operator; never holds message text."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_guild_id", "guild_id", "id"),
        Index("ix_audit_log_actor_id", "actor_id"),
        Index("ix_audit_log_target_id", "target_id"),
        {"comment": "What admins and the operator did; never holds message text", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    guild_id: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("guilds.id", ondelete="CASCADE"), comment="Guild it concerns; NULL for the operator"
    )
    actor_id: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="SET NULL"), comment="Who did it; NULL once that person was deleted"
    )
    target_id: Mapped[int | None] = mapped_column(
        Snowflake, ForeignKey("users.id", ondelete="SET NULL"), comment="Whom it was done to"
    )
    action: Mapped[str] = mapped_column(Text, comment="Dotted verb, such as persona.set")
    details: Mapped[str] = mapped_column(Text, server_default="{}", comment="JSON: changed settings or counts")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was done")


class ProcessedInteraction(Base):
    """An interaction or message id that was processed, so that a replayed event is ignored."""

    __tablename__ = "processed_interactions"
    __table_args__ = (
        Index("ix_processed_interactions_at", "processed_at"),
        {"comment": "Interactions and messages already taken up, so that a replay is not answered twice"},
    )

    interaction_id: Mapped[int] = mapped_column(
        Snowflake, primary_key=True, autoincrement=False, comment="Snowflake of the interaction or message"
    )
    processed_at: Mapped[datetime] = mapped_column(
        UTCDateTime, comment="When it was taken up; forgotten after two days"
    )
