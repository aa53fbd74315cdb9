"""Settings of guilds and members. NULL: the operator's default applies."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, Text, false, text, true
from sqlalchemy.orm import Mapped, mapped_column

from models.base import NAMES_A_PERSON, Base, Snowflake, UTCDateTime, application_column, in_application

_SCOPES = "'member', 'channel', 'thread', 'member-channel', 'member-thread'"
_SHORTENED = text("retention_days IS NOT NULL")
_REMEMBERED, _REMEMBERED_SQLITE = text("memory IS TRUE"), text("memory IS 1")  # as each database is asked


class GuildSettingsRow(Base):
    """The settings of one guild."""

    __tablename__ = "guild_settings"
    __table_args__ = (
        CheckConstraint(f"dialog_scope IN ({_SCOPES})", name="dialog_scope"),
        CheckConstraint("max_chat_logs BETWEEN 0 AND 1000", name="max_chat_logs"),
        CheckConstraint("max_reply_tokens > 0", name="max_reply_tokens"),
        CheckConstraint("retention_days >= 0", name="retention_days"),
        CheckConstraint("session_ttl_s > 0", name="session_ttl_s"),
        CheckConstraint("daily_turns >= 0 AND daily_tokens >= 0", name="quotas"),
        CheckConstraint("own_personas IN ('members', 'roles', 'nobody')", name="own_personas"),
        CheckConstraint("minute_messages > 0", name="minute_messages"),
        CheckConstraint("running_replies > 0", name="running_replies"),
        CheckConstraint("guild_minute_messages > 0", name="guild_minute_messages"),
        CheckConstraint("guild_running_replies > 0", name="guild_running_replies"),
        CheckConstraint("guild_daily_turns >= 0", name="guild_daily_turns"),
        CheckConstraint("guild_daily_tokens >= 0", name="guild_daily_tokens"),
        CheckConstraint("persona_face IN ('off', 'name', 'profile', 'webhook')", name="persona_face"),
        in_application("guilds", "guild_id"),
        {"comment": "What the admins of a guild chose; a missing row means all defaults"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    application_id: Mapped[int] = application_column(primary_key=True)
    dialog_scope: Mapped[str] = mapped_column(
        Text,
        server_default="member",
        comment="Dialogs of a member: in the guild, by channel or by thread; or of a channel or thread, shared by all",
    )
    max_chat_logs: Mapped[int | None] = mapped_column(comment="Pairs of history in a prompt")
    max_reply_tokens: Mapped[int | None] = mapped_column(comment="Longest reply, in tokens")
    retention_days: Mapped[int | None] = mapped_column(comment="Days an ended dialog is kept")
    session_ttl_s: Mapped[int | None] = mapped_column(comment="Idle seconds after which a dialog ends")
    daily_turns: Mapped[int | None] = mapped_column(comment="Turns a member may have in one UTC day")
    daily_tokens: Mapped[int | None] = mapped_column(comment="Tokens a member may use in one UTC day")
    own_personas: Mapped[str] = mapped_column(
        Text, server_default="members", comment="Who may have a persona of their own: members, roles or nobody"
    )
    streaming: Mapped[bool] = mapped_column(
        server_default=true(), comment="Whether replies grow while they are written"
    )
    locale: Mapped[str | None] = mapped_column(Text, comment="Language of the texts for the guild, such as en-GB")
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When an admin last changed it")
    memory: Mapped[bool] = mapped_column(
        server_default=false(), comment="Whether members may have me remember what prompts no longer contain"
    )
    persona_face: Mapped[str] = mapped_column(
        Text,
        server_default="off",
        comment="How a persona is seen: not at all, by its name above replies, as my own profile, or through a webhook",
    )
    files: Mapped[bool] = mapped_column(server_default=true(), comment="Whether files that come with messages are read")
    minute_messages: Mapped[int | None] = mapped_column(comment="Messages that a member may send in a minute")
    running_replies: Mapped[int | None] = mapped_column(comment="Replies to a member that are written at once")
    guild_minute_messages: Mapped[int | None] = mapped_column(
        comment="Messages that all members together may send in a minute"
    )
    guild_running_replies: Mapped[int | None] = mapped_column(comment="Replies to all members that are written at once")
    guild_daily_turns: Mapped[int | None] = mapped_column(
        comment="Turns that all members together may have in one UTC day"
    )
    guild_daily_tokens: Mapped[int | None] = mapped_column(
        comment="Tokens that all members together may use in one UTC day"
    )
    moderation: Mapped[bool] = mapped_column(
        server_default=false(), comment="Whether the moderation endpoint judges messages and replies"
    )
    moderation_thresholds: Mapped[str] = mapped_column(
        Text, server_default="{}", comment="JSON: scores by category from which a text is kept out"
    )
    model: Mapped[str | None] = mapped_column(Text, comment="Name of the model that answers; NULL: the default one")


class GuildFilterWord(Base):
    """A word that a guild keeps out of conversations."""

    __tablename__ = "guild_filter_words"
    __table_args__ = (
        in_application("guilds", "guild_id"),
        {"comment": "Words that a guild keeps out of conversations"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="0, 1, 2, ... in the guild")
    application_id: Mapped[int] = application_column(primary_key=True)
    word: Mapped[str] = mapped_column(
        Text, comment="One word or several, * for any letters; sealed when encryption is on"
    )


class GuildChannel(Base):
    """A channel that the bot may answer in; a guild without any allows all channels."""

    __tablename__ = "guild_channels"
    __table_args__ = (
        in_application("guilds", "guild_id"),
        {"comment": "Channels the bot may answer in; none listed means all"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    channel_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Allowed channel")
    application_id: Mapped[int] = application_column(primary_key=True)


class ChannelScope(Base):
    """A channel whose dialogs have another scope than the guild's."""

    __tablename__ = "channel_scopes"
    __table_args__ = (
        CheckConstraint(f"dialog_scope IN ({_SCOPES})", name="dialog_scope"),
        in_application("guilds", "guild_id"),
        {"comment": "Channels with a dialog scope of their own"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    channel_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Channel")
    application_id: Mapped[int] = application_column(primary_key=True)
    dialog_scope: Mapped[str] = mapped_column(Text, comment="As in guild_settings")


class LockedChannel(Base):
    """A place in which no member's own persona answers."""

    __tablename__ = "locked_channels"
    __table_args__ = (
        in_application("guilds", "guild_id"),
        {"comment": "Categories, channels and threads in which the persona of no member answers"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    channel_id: Mapped[int] = mapped_column(
        Snowflake, primary_key=True, autoincrement=False, comment="Category, channel or thread"
    )
    application_id: Mapped[int] = application_column(primary_key=True)


class BoundThread(Base):
    """A thread that a member started for a conversation with the bot."""

    __tablename__ = "bound_threads"
    __table_args__ = (
        in_application("guilds", "guild_id"),
        Index("ix_bound_threads_guild_id", "guild_id", "application_id"),
        Index("ix_bound_threads_creator_id", "creator_id", "application_id"),
        {"comment": "Threads in which the bot answers without being mentioned"},
    )

    thread_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Thread")
    application_id: Mapped[int] = application_column(primary_key=True)
    guild_id: Mapped[int] = mapped_column(Snowflake, comment="Guild")
    parent_id: Mapped[int] = mapped_column(Snowflake, comment="Channel of the thread")
    creator_id: Mapped[int | None] = mapped_column(
        Snowflake, comment="Who asked for it; NULL once that person was deleted", info=NAMES_A_PERSON
    )
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it was started")
    last_used_at: Mapped[datetime] = mapped_column(
        UTCDateTime, comment="When members last talked in it, recorded once a day"
    )


class GuildRole(Base):
    """A guild's rules for one role: whether it may chat or have personas of its own, and its daily quota."""

    __tablename__ = "guild_roles"
    __table_args__ = (
        CheckConstraint("daily_turns >= 0", name="daily_turns"),
        CheckConstraint("minute_messages > 0", name="minute_messages"),
        CheckConstraint("running_replies > 0", name="running_replies"),
        CheckConstraint("daily_tokens >= 0", name="daily_tokens"),
        in_application("guilds", "guild_id"),
        {"comment": "Roles that may chat, none allowed means everyone, and their own daily quota"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    role_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Role of the guild")
    application_id: Mapped[int] = application_column(primary_key=True)
    allowed: Mapped[bool] = mapped_column(
        server_default=false(), comment="Whether the role is on the list that may chat"
    )
    daily_turns: Mapped[int | None] = mapped_column(comment="Turns a day for this role instead of the usual number")
    own_persona: Mapped[bool] = mapped_column(
        server_default=false(), comment="Whether its members may have a persona of their own where only some roles may"
    )
    minute_messages: Mapped[int | None] = mapped_column(comment="Messages a minute instead of the usual number")
    running_replies: Mapped[int | None] = mapped_column(comment="Replies at once instead of the usual number")
    daily_tokens: Mapped[int | None] = mapped_column(comment="Tokens a day instead of the usual number")


class MemberSettingsRow(Base):
    """The settings of one member in one guild."""

    __tablename__ = "member_settings"
    __table_args__ = (
        CheckConstraint("max_chat_logs BETWEEN 0 AND 1000", name="max_chat_logs"),
        CheckConstraint("retention_days >= 0", name="retention_days"),
        in_application("guilds", "guild_id"),
        in_application("users", "user_id"),
        Index("ix_member_settings_user_id", "user_id", "application_id"),
        Index(
            "ix_member_settings_memory",
            "application_id",
            "guild_id",
            "user_id",
            sqlite_where=_REMEMBERED_SQLITE,
            postgresql_where=_REMEMBERED,
        ),
        Index(
            "ix_member_settings_retention",
            "application_id",
            "retention_days",
            sqlite_where=_SHORTENED,
            postgresql_where=_SHORTENED,
        ),
        {"comment": "What a member chose for this guild"},
    )

    guild_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Guild")
    user_id: Mapped[int] = mapped_column(Snowflake, primary_key=True, autoincrement=False, comment="Member")
    application_id: Mapped[int] = application_column(primary_key=True)
    max_chat_logs: Mapped[int | None] = mapped_column(
        comment="Pairs of history in a prompt, at most what the guild allows"
    )
    retention_days: Mapped[int | None] = mapped_column(
        comment="Days an ended dialog is kept, if shorter than the usual"
    )
    private: Mapped[bool | None] = mapped_column(comment="Whether replies are ephemeral unless asked otherwise")
    locale: Mapped[str | None] = mapped_column(Text, comment="Language of the texts for this member")
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When it last changed")
    memory: Mapped[bool | None] = mapped_column(
        comment="Whether the member wants to be remembered beyond the conversation; NULL: no"
    )
    forgotten_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime,
        comment="When the member had all notes forgotten: nothing that was said before is remembered any more",
    )
