"""The places and people of the fake Discord and their JSON: users, roles, guilds, channels, threads; permissions.

Knows the shape of Discord's objects and how permissions add up. Knows nothing of HTTP, of the gateway or of messages.
"""

from __future__ import annotations

import enum
import itertools
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

Json = dict[str, Any]


class Permission(enum.IntFlag):
    """The permissions that matter to a chat bot."""

    ADMINISTRATOR = 1 << 3
    MANAGE_CHANNELS = 1 << 4
    MANAGE_GUILD = 1 << 5
    ADD_REACTIONS = 1 << 6
    VIEW_CHANNEL = 1 << 10
    SEND_MESSAGES = 1 << 11
    MANAGE_MESSAGES = 1 << 13
    EMBED_LINKS = 1 << 14
    ATTACH_FILES = 1 << 15
    READ_MESSAGE_HISTORY = 1 << 16
    MENTION_EVERYONE = 1 << 17
    USE_EXTERNAL_EMOJIS = 1 << 18
    CHANGE_NICKNAME = 1 << 26
    MANAGE_WEBHOOKS = 1 << 29
    USE_APPLICATION_COMMANDS = 1 << 31
    MANAGE_THREADS = 1 << 34
    CREATE_PUBLIC_THREADS = 1 << 35
    CREATE_PRIVATE_THREADS = 1 << 36
    SEND_MESSAGES_IN_THREADS = 1 << 38
    USE_EXTERNAL_APPS = 1 << 50


P = Permission
MANAGE_GUILD = P.MANAGE_GUILD
ALL = sum(P)
EVERYONE = (  # what a new guild gives to @everyone
    P.ADD_REACTIONS | P.VIEW_CHANNEL | P.SEND_MESSAGES | P.EMBED_LINKS | P.ATTACH_FILES | P.READ_MESSAGE_HISTORY
    | P.MENTION_EVERYONE | P.USE_EXTERNAL_EMOJIS | P.USE_APPLICATION_COMMANDS | P.CREATE_PUBLIC_THREADS
    | P.CHANGE_NICKNAME | P.CREATE_PRIVATE_THREADS | P.SEND_MESSAGES_IN_THREADS | P.USE_EXTERNAL_APPS
)  # fmt: skip
# What an application may do in direct messages, and anywhere a user brings it along.
OUTSIDE_GUILDS = P.ATTACH_FILES | P.EMBED_LINKS | P.MENTION_EVERYONE | P.USE_EXTERNAL_EMOJIS
NEEDS_SENDING = P.MENTION_EVERYONE | P.ATTACH_FILES | P.EMBED_LINKS
TEXT, DM, GROUP, CATEGORY, PUBLIC_THREAD, PRIVATE_THREAD = 0, 1, 3, 4, 11, 12
EPOCH = 1_420_070_400_000
_counter = itertools.count(1)


def snowflake() -> int:
    """A new id, shaped like Discord's: milliseconds since 2015, then a counter."""
    return (int(time.time() * 1000) - EPOCH) << 22 | next(_counter) & 0x3FFFFF


def picture_hash(picture: bytes | None) -> str | None:
    """What Discord calls a picture."""
    return sha256(picture).hexdigest()[:32] if picture else None


def iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


@dataclass(slots=True, eq=False)
class User:
    name: str
    id: int = field(default_factory=snowflake)
    bot: bool = False
    dms_open: bool = True  # False: takes direct messages only from friends
    blocked_bot: bool = False
    installed: bool = False  # has the bot as an application of their own
    exact: bool = False  # shown by this very name, as a webhook is
    avatar_url: str | None = None  # of a webhook's message; None for the webhook's own picture
    picture: bytes | None = None  # that one, when the message was sent
    locale: str = "en-US"  # of their client
    external_apps: bool = True  # False: guilds do not let them show others the answers of such applications

    @property
    def display_name(self) -> str:
        return self.name if self.exact else self.name.title()

    def json(self) -> Json:
        return {
            "id": str(self.id), "username": self.name, "discriminator": "0", "global_name": self.display_name,
            "avatar": None, "bot": self.bot, "system": False, "public_flags": 0, "flags": 0,
        }  # fmt: skip


@dataclass(slots=True, eq=False)
class Overwrite:
    """What a channel allows and denies one role or member."""

    allow: int = 0
    deny: int = 0


@dataclass(slots=True, eq=False)
class Directory:
    """Everything of one fake Discord by its id, so that what a channel holds and names can be found from it."""

    bot: User
    users: dict[int, User] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    messages: dict[int, Any] = field(default_factory=dict)

    def add(self, channel: Channel) -> Channel:
        self.channels[channel.id] = channel
        channel.directory = self
        return channel


@dataclass(slots=True, eq=False)
class Channel:
    """A text channel, a category, a thread (it has a parent), or a private channel (it has no guild)."""

    name: str
    guild: Guild | None
    recipient: User | None = None
    id: int = field(default_factory=snowflake)
    bot_may_send: bool = True  # False: an overwrite denies it to the bot
    parent: Channel | None = None
    category: Channel | None = None
    is_category: bool = False
    age_restricted: bool = False  # of a thread, its channel is
    others: tuple[User, ...] = ()  # who talks here without the bot
    overwrites: dict[int, Overwrite] = field(default_factory=dict, repr=False)  # by the id of a role or member
    announced: bool = False  # the gateway has told of it
    deleted: bool = False
    directory: Directory | None = field(default=None, repr=False)
    last_message_id: int | None = None
    # threads only
    private: bool = False
    owner: User | None = None
    members: dict[int, User] = field(default_factory=dict, repr=False)
    archived: bool = False
    locked: bool = False
    auto_archive: int = 1440
    num_messages: int = 0
    slowmode: int = 0
    created_at: float = field(default_factory=time.time)

    @property
    def kind(self) -> int:
        """Discord's number of the type."""
        if self.guild is None:
            return GROUP if len(self.others) > 2 else DM
        if self.is_category:
            return CATEGORY
        return TEXT if self.parent is None else PRIVATE_THREAD if self.private else PUBLIC_THREAD

    def overwrites_json(self) -> list[Json]:
        assert self.guild
        rows = dict(self.overwrites)
        if not self.bot_may_send:
            own = rows.get(self.guild.bot.id, Overwrite())
            no = P.SEND_MESSAGES | P.SEND_MESSAGES_IN_THREADS
            rows[self.guild.bot.id] = Overwrite(own.allow & ~no, own.deny | no)
        roles = {self.guild.id, *(role.id for role in self.guild.all_roles())}
        return [{"id": str(key), "type": 0 if key in roles else 1, "allow": str(int(row.allow)),
                 "deny": str(int(row.deny))} for key, row in rows.items()]  # fmt: skip

    def json(self, viewer: User | None = None) -> Json:
        """`viewer`: whose `permissions` the object shows, as in interactions; the gateway's objects have none."""
        last = str(self.last_message_id) if self.last_message_id else None
        if self.guild is None:
            people = [self.recipient] if self.recipient else list(self.others)
            return {"id": str(self.id), "type": self.kind, "recipients": [user.json() for user in people],
                    "last_message_id": last, "flags": 0}  # fmt: skip
        shared: Json = {"id": str(self.id), "type": self.kind, "name": self.name, "guild_id": str(self.guild.id),
                        "rate_limit_per_user": self.slowmode, "flags": 0, "last_message_id": last}  # fmt: skip
        if viewer is not None:
            shared["permissions"] = str(int(self.guild.permissions(viewer, self)))
        if self.parent is None:
            return {**shared, "position": 0, "permission_overwrites": self.overwrites_json(),
                    "nsfw": self.age_restricted, "topic": None,
                    "parent_id": str(self.category.id) if self.category else None}  # fmt: skip
        started = iso_time(self.created_at)
        metadata: Json = {"archived": self.archived, "auto_archive_duration": self.auto_archive, "locked": self.locked,
                          "archive_timestamp": started, "create_timestamp": started}  # fmt: skip
        if self.private:
            metadata["invitable"] = True
        if self.guild.bot.id in self.members:
            shared["member"] = self.member_json(self.guild.bot)
        return {
            **shared, "owner_id": str(self.owner.id if self.owner else 1), "parent_id": str(self.parent.id),
            "message_count": self.num_messages, "member_count": len(self.members) or 1,
            "total_message_sent": self.num_messages, "thread_metadata": metadata,
        }  # fmt: skip

    def member_json(self, user: User) -> Json:
        """A member of this thread."""
        return {"id": str(self.id), "user_id": str(user.id), "join_timestamp": iso_time(self.created_at), "flags": 0}


@dataclass(slots=True, eq=False)
class Role:
    name: str
    members: set[int] = field(default_factory=set)
    id: int = field(default_factory=snowflake)
    permissions: int = 0
    mentionable: bool = False
    managed: bool = False

    def json(self, position: int = 1) -> Json:
        return {
            "id": str(self.id), "name": self.name, "color": 0, "colors": {"primary_color": 0}, "hoist": False,
            "position": position, "permissions": str(int(self.permissions)), "managed": self.managed,
            "mentionable": self.mentionable, "flags": 0,
        }  # fmt: skip


@dataclass(slots=True, eq=False)
class Guild:
    name: str
    bot: User
    id: int = field(default_factory=snowflake)
    channels: list[Channel] = field(default_factory=list, repr=False)  # without threads
    threads: list[Channel] = field(default_factory=list, repr=False)
    managers: set[int] = field(default_factory=set)  # ids of those who may manage the guild
    roles: list[Role] = field(default_factory=list)
    nicknames: dict[int, str] = field(default_factory=dict)
    bot_avatar: bytes | None = None  # of the bot, in this guild
    owner: User | None = None
    everyone: int = EVERYONE
    bot_role: Role = field(default_factory=lambda: Role("Guildllama", managed=True))
    file_limit: int = 10 * 2**20
    joined: bool = True
    locale: str = "en-US"  # that it gave Discord
    unavailable: bool = False

    @property
    def channel(self) -> Channel:
        return self.channels[0]

    def all_roles(self) -> list[Role]:
        return [self.bot_role, *self.roles]

    def roles_of(self, user: User) -> list[Role]:
        own = [self.bot_role] if user is self.bot else []
        return own + [role for role in self.roles if user.id in role.members]

    def permissions(self, user: User, channel: Channel | None = None) -> int:
        """What a user may do in this guild, or in one of its channels, as Discord computes it."""
        if user is self.owner:
            return ALL
        roles = self.roles_of(user)
        everyone = self.everyone if user.external_apps else self.everyone & ~P.USE_EXTERNAL_APPS
        allowed = everyone | (P.MANAGE_GUILD if user.id in self.managers else 0)
        for role in roles:
            allowed |= role.permissions
        if allowed & P.ADMINISTRATOR:
            return ALL
        if channel is None:
            return allowed
        rows = {int(row["id"]): row for row in (channel.parent or channel).overwrites_json()}
        for group in ((self.id,), tuple(role.id for role in roles), (user.id,)):
            found = [rows[key] for key in group if key in rows]
            for row in found:
                allowed &= ~int(row["deny"])
            for row in found:
                allowed |= int(row["allow"])
        if user is self.bot and not channel.bot_may_send:
            allowed &= ~(P.SEND_MESSAGES | P.SEND_MESSAGES_IN_THREADS)
        if not allowed & P.VIEW_CHANNEL:
            return 0
        sending = P.SEND_MESSAGES if channel.parent is None else P.SEND_MESSAGES_IN_THREADS
        return allowed if allowed & sending else allowed & ~NEEDS_SENDING

    def visible_threads(self) -> list[Channel]:
        """The active threads that the bot can see: public ones, and private ones that it is in or manages."""
        return [thread for thread in self.threads if not thread.archived and not thread.deleted
                and self.bot_sees(thread)]  # fmt: skip

    def bot_sees(self, channel: Channel) -> bool:
        allowed = self.permissions(self.bot, channel)
        if not allowed & P.VIEW_CHANNEL:
            return False
        return not channel.private or self.bot.id in channel.members or bool(allowed & P.MANAGE_THREADS)

    def json(self) -> Json:
        """The data of GUILD_CREATE."""
        everyone = Role("@everyone", id=self.id, permissions=self.everyone)
        threads = self.visible_threads()
        for channel in (*self.channels, *threads):
            channel.announced = True
        return {
            "id": str(self.id), "name": self.name, "icon": None, "splash": None, "discovery_splash": None,
            "owner_id": str(self.owner.id) if self.owner else "1", "afk_channel_id": None, "afk_timeout": 300,
            "verification_level": 0, "default_message_notifications": 0, "explicit_content_filter": 0,
            "roles": [everyone.json(0), *(role.json() for role in self.all_roles())], "emojis": [], "features": [],
            "mfa_level": 0, "system_channel_id": None, "system_channel_flags": 0, "premium_tier": 0,
            "preferred_locale": self.locale, "nsfw_level": 0, "stickers": [], "premium_progress_bar_enabled": False,
            "rules_channel_id": None, "vanity_url_code": None, "description": None, "banner": None,
            "public_updates_channel_id": None, "joined_at": iso_time(0), "large": False, "unavailable": False,
            "member_count": 2, "voice_states": [], "members": [{**self.member(self.bot), "user": self.bot.json()}],
            "presences": [], "threads": [thread.json() for thread in threads],
            "channels": [channel.json() for channel in self.channels], "stage_instances": [],
            "guild_scheduled_events": [], "soundboard_sounds": [],
        }  # fmt: skip

    def member(self, user: User) -> Json:
        """A member without its user, as in messages."""
        return {
            "nick": self.nicknames.get(user.id), "avatar": self._avatar(user), "joined_at": iso_time(0), "deaf": False,
            "roles": [str(role.id) for role in self.roles_of(user)], "mute": False, "pending": False,
            "premium_since": None, "communication_disabled_until": None, "flags": 0,
        }  # fmt: skip

    def _avatar(self, user: User) -> str | None:
        """The hash of a member's picture for this guild."""
        return picture_hash(self.bot_avatar) if user is self.bot else None
