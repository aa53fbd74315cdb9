"""What the processes of the bot that share this database tell each other: who lives, and which replies to stop."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Snowflake, UTCDateTime, application_column


class Process(Base):
    """A running bot and how long it counts as alive, by the clock of the database."""

    __tablename__ = "processes"
    __table_args__ = (
        Index("ix_processes_alive_until", "alive_until", "application_id"),
        {"comment": "Running bots; a row that is not renewed tells other hosts that its process has died"},
    )

    owner: Mapped[str] = mapped_column(Text, primary_key=True, comment="Process, as in turns.owner")
    application_id: Mapped[int] = application_column()
    alive_until: Mapped[datetime] = mapped_column(
        UTCDateTime, comment="Renewed every 15 seconds; by the clock of the database"
    )
    lost_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime, comment="When another process found it not renewed; NULL while it lives"
    )


class StopRequest(Base):
    """A click on Stop that reached another process than the one that writes the reply."""

    __tablename__ = "stop_requests"
    __table_args__ = (
        Index("ix_stop_requests_at", "requested_at", "application_id"),
        {"comment": "Replies that a member wants to stop; the process that writes the reply deletes the row"},
    )

    interaction_id: Mapped[int] = mapped_column(
        Snowflake, primary_key=True, autoincrement=False, comment="Interaction whose reply is to stop"
    )
    user_id: Mapped[int] = mapped_column(
        Snowflake,
        primary_key=True,
        autoincrement=False,
        comment="Who clicked; the process that writes the reply decides whether they may",
    )
    application_id: Mapped[int] = application_column(primary_key=True)
    managed_guild_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Guild that they manage, if they manage one"
    )
    requested_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When Stop was clicked")
