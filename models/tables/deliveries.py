"""What is to be shown on Discord: where each reply goes, its messages, and what of it has been shown.

A row is written before anything is sent, so that another process can go on after a crash.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime, application_column

_UNFINISHED = text("state <> 'done'")


class Delivery(Base):
    """One place in which the reply of a turn is shown: the response to an interaction, or a reply to a message."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('writing', 'ready', 'done')", name="state"),
        Index("ix_deliveries_turn_id", "turn_id"),
        Index(
            "ix_deliveries_unfinished",
            "application_id",
            "created_at",
            sqlite_where=_UNFINISHED,
            postgresql_where=_UNFINISHED,
        ),
        {"comment": "Where the reply of a turn is shown, and how far that has come", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    turn_id: Mapped[int | None] = mapped_column(
        RowId, ForeignKey("turns.id", ondelete="CASCADE"),
        comment="Turn; NULL while a message waits for its own, and where messages are to say that theirs was forgotten",
    )  # fmt: skip
    state: Mapped[str] = mapped_column(
        Text, comment="writing while the reply is generated, ready while its messages are sent, done"
    )
    owner: Mapped[str | None] = mapped_column(Text, comment="Process that delivers it: tells a crash from a slow one")
    application_id: Mapped[int] = application_column()
    interaction_application_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Application of the interaction; NULL for a reply to a message"
    )
    reply_token: Mapped[str | None] = mapped_column(
        Text, comment="Interaction token; NULL for a reply to a message, and once all is shown"
    )
    token_expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime, comment="When the token expires")
    ephemeral: Mapped[bool] = mapped_column(comment="Whether only the member sees it")
    guild_id: Mapped[int] = mapped_column(Snowflake, comment="Guild, 0 for direct messages")
    channel_id: Mapped[int] = mapped_column(Snowflake, comment="Channel or thread, 0 where the bot is not")
    question_id: Mapped[int | None] = mapped_column(Snowflake, comment="Message that it replies to, if there is one")
    about_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Message of someone else that was asked about, if any"
    )
    asker_id: Mapped[int] = mapped_column(Snowflake, comment="User who is named if the reply arrives late")
    nonce: Mapped[int] = mapped_column(
        Snowflake, comment="Interaction or message that asked for this text: makes a message sent twice appear once"
    )
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When the turn began, or its reply was changed")
    attempts: Mapped[int] = mapped_column(
        server_default="0", comment="How often a process took it up that another one had left"
    )
    retry_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime, comment="Not to be taken up before: Discord could not be reached"
    )
    webhook_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Webhook through which a persona speaks; NULL for messages of the bot itself"
    )
    webhook_name: Mapped[str | None] = mapped_column(
        Text, comment="Name under which it speaks there, sealed when encryption is on"
    )


class DeliveryMessage(Base):
    """One Discord message of a delivery, sent or still to be sent."""

    __tablename__ = "delivery_messages"
    __table_args__ = (
        Index("ix_delivery_messages_message_id", "message_id"),
        {"comment": "The Discord messages of each delivery, in their order"},
    )

    delivery_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True, autoincrement=False,
        comment="Delivery",
    )  # fmt: skip
    position: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="0, 1, 2, ... within the reply"
    )
    message_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Message on Discord; NULL until it is known to have been sent"
    )
    content: Mapped[str | None] = mapped_column(
        Text, comment="Text still to be shown, sealed when encryption is on; NULL once it is"
    )
    with_file: Mapped[bool] = mapped_column(comment="Whether the whole reply is attached as a file")
