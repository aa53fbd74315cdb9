"""The dialog log. A Turn row holds both sides of a pair: no pair is ever half stored; a crash leaves it `pending`."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, Snowflake, UTCDateTime, application_column, in_application

_OPEN = text("ended_at IS NULL AND parked_at IS NULL")
_NOT_ENDED = text("ended_at IS NULL")
_ENDED = text("ended_at IS NOT NULL")
_PENDING = text("status = 'pending'")
_ACTIVE = text("active")
_BY_OTHERS = text("author_id IS NOT NULL")
_PURGED = text("purge_id IS NOT NULL")


class Dialog(Base):
    """A chat session of one member in one guild, or (user id 0) of all members in one channel or thread.

    A partial unique index allows one open dialog per key. Others of the key are parked (a named conversation that the
    member left for another) or ended.
    """

    __tablename__ = "dialogs"
    __table_args__ = (
        Index(
            "uq_dialogs_open",
            "guild_id",
            "user_id",
            "channel_id",
            "application_id",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        in_application("guilds", "guild_id"),
        in_application("users", "user_id"),
        Index(
            "ix_dialogs_idle", "application_id", "last_active_at", sqlite_where=_NOT_ENDED, postgresql_where=_NOT_ENDED
        ),
        Index("ix_dialogs_ended", "application_id", "ended_at", sqlite_where=_ENDED, postgresql_where=_ENDED),
        Index("ix_dialogs_member", "guild_id", "user_id", "application_id"),
        Index("ix_dialogs_user_id", "user_id", "application_id"),
        Index("ix_dialogs_guild_active", "guild_id", "application_id", "last_active_at"),
        Index("ix_dialogs_purge_id", "purge_id", sqlite_where=_PURGED, postgresql_where=_PURGED),
        {
            "comment": "Chat sessions of one user in one guild; at most one is open per key",
            "sqlite_autoincrement": True,
        },
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    application_id: Mapped[int] = application_column()
    guild_id: Mapped[int] = mapped_column(Snowflake, comment="Guild, 0 for direct messages")
    user_id: Mapped[int] = mapped_column(Snowflake, comment="Whose dialog it is")
    channel_id: Mapped[int] = mapped_column(
        Snowflake, server_default="0", comment="Channel or thread where the guild chose that scope, else 0"
    )
    opened_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When its first turn began")
    last_active_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When its last turn began or finished")
    ended_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime, comment="NULL while open; retention counts from here"
    )
    end_reason: Mapped[str | None] = mapped_column(Text, comment="Why it ended, such as reset or idle")
    parked_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime, comment="When another conversation of this key took its place; NULL while it is the one in use"
    )
    name: Mapped[str | None] = mapped_column(Text, comment="Name that its owner gave it, sealed when encryption is on")
    purge_id: Mapped[int | None] = mapped_column(
        RowId, comment="Deletion by an admin that can still be taken back: nobody finds the dialog; see purges"
    )


class Turn(Base):
    """What the member wrote and the reply to it, or the state that the reply is in."""

    __tablename__ = "turns"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'done', 'failed', 'interrupted')", name="status"),
        CheckConstraint("(status = 'done') = (reply IS NOT NULL)", name="whole_pair"),
        in_application("users", "author_id"),
        UniqueConstraint("interaction_id", "application_id"),
        Index("ix_turns_dialog", "dialog_id", "id"),
        Index("ix_turns_author_id", "author_id", "application_id"),
        Index("ix_turns_pending", "application_id", "created_at", sqlite_where=_PENDING, postgresql_where=_PENDING),
        {"comment": "One pair each: what the member wrote and the reply", "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again; orders the turns")
    dialog_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("dialogs.id", ondelete="CASCADE"), comment="Dialog the pair belongs to"
    )
    application_id: Mapped[int] = application_column()
    interaction_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Interaction or message that asked; NULL from the terminal"
    )
    status: Mapped[str] = mapped_column(Text, comment="pending, done, failed or interrupted")
    user_text: Mapped[str] = mapped_column(Text, comment="What the member wrote, sealed when encryption is on")
    reply: Mapped[str | None] = mapped_column(
        Text, comment="The active reply, sealed when encryption is on; set if done"
    )
    owner: Mapped[str | None] = mapped_column(
        Text, comment="Process that generates it: tells a crash from a slow reply"
    )
    error_id: Mapped[str | None] = mapped_column(Text, comment="Id shown to the member when it failed, as in the log")
    prompt_tokens: Mapped[int | None] = mapped_column(comment="Tokens of the prompt")
    completion_tokens: Mapped[int | None] = mapped_column(comment="Tokens of the reply")
    finish_reason: Mapped[str | None] = mapped_column(Text, comment="stop, length, stopped, ...")
    first_token_ms: Mapped[int | None] = mapped_column(comment="Milliseconds to the first token")
    total_ms: Mapped[int | None] = mapped_column(comment="Milliseconds to the last token")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When the turn began")
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime, comment="When it left pending")
    author_id: Mapped[int | None] = mapped_column(Snowflake, comment="Who wrote it")
    author_name: Mapped[str | None] = mapped_column(
        Text, comment="Name that the model read, in a shared dialog only; sealed when encryption is on"
    )
    replaces_id: Mapped[int | None] = mapped_column(
        RowId, comment="Turn that it replaced, with all later ones: the member had edited what they said"
    )
    files_note: Mapped[str | None] = mapped_column(
        Text, comment="What the member is told of the files, above the reply; sealed when encryption is on"
    )
    speaker_id: Mapped[int | None] = mapped_column(
        RowId,
        comment="Persona whose name stands above the reply, which may have been deleted since; NULL where none does",
    )
    speaker_name: Mapped[str | None] = mapped_column(
        Text, comment="Its name at that time, sealed when encryption is on"
    )
    model: Mapped[str | None] = mapped_column(Text, comment="Model that wrote the reply, as its server calls it")


class TurnFile(Base):
    """A text that came with a turn, a file or a quoted message; it is part of what the member said.

    Of a picture only the name.
    """

    __tablename__ = "turn_files"
    __table_args__ = (
        CheckConstraint("kind IN ('file', 'quote', 'quoted file')", name="kind"),
        Index("ix_turn_files_author_id", "author_id", sqlite_where=_BY_OTHERS, postgresql_where=_BY_OTHERS),
        {"comment": "What came with a message: files as the text that the model read, messages that it quotes"},
    )

    turn_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Turn"
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="0, 1, 2, ... within the turn")
    name: Mapped[str] = mapped_column(
        Text, comment="Name of the file or of the quoted author, sealed when encryption is on"
    )
    content: Mapped[str] = mapped_column(
        Text, comment="Its text, sealed when encryption is on; empty for a picture, and for what could not be read"
    )
    note: Mapped[str | None] = mapped_column(
        Text, comment="What the model is told beside the name: its pages, where it was cut, that it is a picture"
    )
    kind: Mapped[str] = mapped_column(
        Text, server_default="file", comment="file of the member, quote of a message, or file of the quoted message"
    )
    author_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Who wrote the quoted message; they may never have talked with the bot"
    )


class ReplyVariant(Base):
    """One of the replies of a regenerated turn; the active one is also in the turn."""

    __tablename__ = "reply_variants"
    __table_args__ = (
        Index("uq_reply_variants_active", "turn_id", unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
        {"comment": "All replies of a turn that was regenerated; the active one is also in the turn itself"},
    )

    turn_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Turn"
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="1, 2, 3, ... within the turn")
    active: Mapped[bool] = mapped_column(comment="Whether it is the one in the history; one a turn")
    reply: Mapped[str] = mapped_column(Text, comment="The reply, sealed when encryption is on")
    prompt_tokens: Mapped[int | None] = mapped_column(comment="Tokens of the prompt")
    completion_tokens: Mapped[int | None] = mapped_column(comment="Tokens of the reply")
    finish_reason: Mapped[str | None] = mapped_column(Text, comment="stop, length, stopped, ...")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When this reply was finished")
    speaker_id: Mapped[int | None] = mapped_column(
        RowId,
        comment="Persona whose name stands above the reply, which may have been deleted since; NULL where none does",
    )
    speaker_name: Mapped[str | None] = mapped_column(
        Text, comment="Its name at that time, sealed when encryption is on"
    )
    model: Mapped[str | None] = mapped_column(Text, comment="Model that wrote the reply, as its server calls it")
