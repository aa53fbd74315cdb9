"""The objects of the fake Discord and their JSON: users, guilds, channels, roles, messages, interactions.

Knows the shape of Discord's objects. Knows nothing of HTTP, of the gateway or of permissions.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

EPHEMERAL, LOADING = 1 << 6, 1 << 7
MANAGE_GUILD, ADMINISTRATOR, SEND_MESSAGES, VIEW_CHANNEL, ATTACH_FILES = 1 << 5, 1 << 3, 1 << 11, 1 << 10, 1 << 15
EVERYONE = SEND_MESSAGES | VIEW_CHANNEL | ATTACH_FILES | 1 << 31
EPOCH = 1_420_070_400_000
_counter = itertools.count(1)


def snowflake() -> int:
    """A new id, shaped like Discord's: milliseconds since 2015, then a counter."""
    return (int(time.time() * 1000) - EPOCH) << 22 | next(_counter) & 0x3FFFFF


def iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


@dataclass(slots=True)
class User:
    name: str
    id: int = field(default_factory=snowflake)
    bot: bool = False

    def json(self) -> Json:
        return {
            "id": str(self.id), "username": self.name, "discriminator": "0", "global_name": self.name.title(),
            "avatar": None, "bot": self.bot, "system": False, "public_flags": 0, "flags": 0,
        }  # fmt: skip


@dataclass(slots=True)
class Channel:
    name: str
    guild: Guild | None
    recipient: User | None = None
    id: int = field(default_factory=snowflake)
    bot_may_send: bool = True
    parent: Channel | None = None  # of a thread

    def json(self) -> Json:
        if self.guild is None:
            assert self.recipient is not None
            return {"id": str(self.id), "type": 1, "recipients": [self.recipient.json()], "last_message_id": None,
                    "flags": 0}  # fmt: skip
        if self.parent is not None:
            return {
                "id": str(self.id), "type": 11, "name": self.name, "guild_id": str(self.guild.id), "owner_id": "1",
                "parent_id": str(self.parent.id), "message_count": 1, "member_count": 1, "total_message_sent": 1,
                "rate_limit_per_user": 0, "flags": 0, "last_message_id": None, "permissions": str(EVERYONE),
                "thread_metadata": {"archived": False, "auto_archive_duration": 1440, "locked": False,
                                    "archive_timestamp": iso_time(0), "create_timestamp": iso_time(0)},
            }  # fmt: skip
        return {
            "id": str(self.id), "type": 0, "name": self.name, "guild_id": str(self.guild.id), "position": 0,
            "permission_overwrites": [], "nsfw": False, "topic": None, "last_message_id": None, "parent_id": None,
            "rate_limit_per_user": 0, "flags": 0, "permissions": str(EVERYONE),
        }  # fmt: skip


@dataclass(slots=True)
class Role:
    name: str
    members: set[int] = field(default_factory=set)
    id: int = field(default_factory=snowflake)

    def json(self) -> Json:
        return {
            "id": str(self.id), "name": self.name, "color": 0, "colors": {"primary_color": 0}, "hoist": False,
            "position": 1, "permissions": "0", "managed": False, "mentionable": False, "flags": 0,
        }  # fmt: skip


@dataclass(slots=True)
class Guild:
    name: str
    id: int = field(default_factory=snowflake)
    channels: list[Channel] = field(default_factory=list)  # without threads, which the gateway does not report
    managers: set[int] = field(default_factory=set)
    roles: list[Role] = field(default_factory=list)
    joined: bool = True
    unavailable: bool = False

    @property
    def channel(self) -> Channel:
        return self.channels[0]

    def json(self, bot: User) -> Json:
        everyone = {**Role("@everyone", id=self.id).json(), "position": 0, "permissions": str(EVERYONE)}
        return {
            "id": str(self.id), "name": self.name, "icon": None, "splash": None, "discovery_splash": None,
            "owner_id": "1", "afk_channel_id": None, "afk_timeout": 300, "verification_level": 0,
            "default_message_notifications": 0, "explicit_content_filter": 0, "roles": [everyone], "emojis": [],
            "features": [], "mfa_level": 0, "system_channel_id": None, "system_channel_flags": 0, "premium_tier": 0,
            "preferred_locale": "en-US", "nsfw_level": 0, "stickers": [], "premium_progress_bar_enabled": False,
            "rules_channel_id": None, "vanity_url_code": None, "description": None, "banner": None,
            "public_updates_channel_id": None, "joined_at": iso_time(0), "large": False, "unavailable": False,
            "member_count": 2, "voice_states": [], "members": [self.member(bot)], "presences": [], "threads": [],
            "channels": [channel.json() for channel in self.channels], "stage_instances": [],
            "guild_scheduled_events": [], "soundboard_sounds": [],
        }  # fmt: skip

    def member(self, user: User, permissions: int | None = None) -> Json:
        member: Json = {
            "user": user.json(), "nick": None, "avatar": None, "joined_at": iso_time(0), "deaf": False,
            "roles": [str(role.id) for role in self.roles if user.id in role.members],
            "mute": False, "pending": False, "premium_since": None, "communication_disabled_until": None, "flags": 0,
        }  # fmt: skip
        return member if permissions is None else {**member, "permissions": str(permissions)}


@dataclass(slots=True)
class Attachment:
    filename: str
    content: bytes


@dataclass(slots=True)
class Message:
    """One message, with all its former contents."""

    channel: Channel
    author: User
    content: str = ""
    flags: int = 0
    components: list[Json] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    allowed_mentions: Json | None = None
    deleted: bool = False
    edits: list[tuple[float, str]] = field(default_factory=list)  # (when, content); the first entry is its creation
    id: int = field(default_factory=snowflake)

    @property
    def ephemeral(self) -> bool:
        return bool(self.flags & EPHEMERAL)

    @property
    def loading(self) -> bool:
        return bool(self.flags & LOADING)

    def buttons(self) -> list[Json]:
        return [item for row in self.components for item in row.get("components", []) if item.get("type") == 2]

    def json(self) -> Json:
        created = self.edits[0][0] if self.edits else 0.0
        return {
            "id": str(self.id), "channel_id": str(self.channel.id), "author": self.author.json(),
            "content": self.content, "timestamp": iso_time(created), "edited_timestamp": None, "tts": False,
            "mention_everyone": False, "mentions": [], "mention_roles": [], "embeds": [], "pinned": False, "type": 0,
            "flags": self.flags, "components": self.components, "webhook_id": str(self.author.id),
            "application_id": str(self.author.id),
            "attachments": [
                {"id": str(index), "filename": attachment.filename, "size": len(attachment.content),
                 "url": "https://cdn.invalid/file", "proxy_url": "https://cdn.invalid/file"}
                for index, attachment in enumerate(self.attachments)
            ],
        }  # fmt: skip


@dataclass(slots=True)
class Interaction:
    """One interaction: what was asked, the type of its first response, and the messages of the response."""

    type: int
    user: User
    guild: Guild | None
    channel: Channel
    data: Json
    created_at: float
    token: str
    message: Message | None = None  # the one whose button was clicked
    callback_type: int | None = None  # of the first response; see `routes.CALLBACK_TYPES`
    original: Message | None = None
    followups: list[Message] = field(default_factory=list)
    modal: Json | None = None
    id: int = field(default_factory=snowflake)

    def messages(self) -> list[Message]:
        """The response and follow-ups that the user can see now, in order."""
        own = [self.original] if self.original and self.message is None else []
        return [message for message in own + self.followups if not message.deleted]

    def texts(self) -> list[str]:
        return [message.content for message in self.messages()]

    def reply(self) -> str:
        return self.texts()[0] if self.messages() else ""

    def done(self) -> bool:
        """Whether the response is complete: no "thinking…" and no button of a running reply is left."""
        if self.modal is not None or self.callback_type in (6, 7, 8):
            return True
        shown = self.messages()
        return bool(shown) and not any(message.loading or message.buttons() for message in shown)

    def json(self, application_id: int) -> Json:
        permissions = EVERYONE
        if self.guild and self.user.id in self.guild.managers:
            permissions |= MANAGE_GUILD
        bot_permissions = EVERYONE if self.channel.bot_may_send else EVERYONE & ~SEND_MESSAGES
        payload: Json = {
            "id": str(self.id), "application_id": str(application_id), "type": self.type, "token": self.token,
            "version": 1, "channel": self.channel.json(), "channel_id": str(self.channel.id), "locale": "en-US",
            "app_permissions": str(bot_permissions), "entitlements": [], "entitlement_sku_ids": [],
            "attachment_size_limit": 10_485_760, "context": 0 if self.guild else 1, "data": self.data,
            "authorizing_integration_owners": {"0": str(self.guild.id if self.guild else 0)},
        }  # fmt: skip
        if self.guild:
            payload["guild_id"] = str(self.guild.id)
            payload["guild"] = {"id": str(self.guild.id), "locale": "en-US", "features": []}
            payload["guild_locale"] = "en-US"
            payload["member"] = self.guild.member(self.user, permissions)
        else:
            payload["user"] = self.user.json()
        if self.message is not None:
            payload["message"] = self.message.json()
        return payload
