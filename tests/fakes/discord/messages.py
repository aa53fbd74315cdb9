"""The messages of the fake Discord, their attachments, and interactions, as objects and as JSON.

Knows what Discord tells of a message in a response, in an event and as the reply of another one. Knows nothing of HTTP
or of which session may read it.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.discord.state import (
    EVERYONE,
    OUTSIDE_GUILDS,
    Channel,
    Guild,
    Json,
    Permission,
    Role,
    User,
    iso_time,
    snowflake,
)

SUPPRESS_EMBEDS, HAS_THREAD, EPHEMERAL, LOADING = 1 << 2, 1 << 5, 1 << 6, 1 << 7
SUPPRESS_NOTIFICATIONS, VOICE_MESSAGE, COMPONENTS_V2 = 1 << 12, 1 << 13, 1 << 15
DEFAULT, THREAD_CREATED, REPLY, SLASH_RESPONSE, THREAD_STARTER, MENU_RESPONSE = 0, 18, 19, 20, 21, 23
STOP_KIND = "stop"  # the custom id of a button that stops a running reply begins with it
INTERACTIVE = {2, 3, 5, 6, 7, 8}  # component types that can be used
CODE = re.compile(r"(`{3,})[\s\S]*?\1|(`+)(?!`)[\s\S]*?(?<!`)\2(?!`)")


@dataclass(slots=True, eq=False)
class Attachment:
    """A file. `declared_size` and `content_type` are what Discord says of it, which need not be true."""

    filename: str
    content: bytes
    content_type: str | None = None
    declared_size: int | None = None
    description: str | None = None
    duration: float | None = None  # of a voice message, in seconds
    size_in_pixels: tuple[int, int] | None = None
    id: int = field(default_factory=snowflake)
    ephemeral: bool = False
    sign: Callable[[Attachment], str] | None = None  # set by the CDN

    @property
    def name(self) -> str:
        """The file name as Discord shows it: spaces become underscores, and most other characters are dropped."""
        return re.sub(r"[^A-Za-z0-9._-]", "", self.filename.replace(" ", "_")).lstrip(".") or "unknown"

    @property
    def url(self) -> str:
        """A link that was signed now."""
        assert self.sign, "the attachment is on no CDN yet: send it first"
        return self.sign(self)

    def json(self) -> Json:
        kind = self.content_type or mimetypes.guess_type(self.name)[0]
        if kind and kind.startswith("text/") and "charset" not in kind:
            kind += "; charset=utf-8"
        data: Json = {
            "id": str(self.id), "filename": self.name, "content_type": kind, "url": self.url, "proxy_url": self.url,
            "size": len(self.content) if self.declared_size is None else self.declared_size,
        }  # fmt: skip
        if self.name != self.filename:
            data["title"] = self.filename.rpartition(".")[0] or self.filename
        if self.size_in_pixels:
            data["width"], data["height"] = self.size_in_pixels
        if self.duration is not None:
            data |= {"duration_secs": self.duration, "waveform": "AAAA"}
        optional = {"description": self.description, "ephemeral": self.ephemeral}
        return data | {key: value for key, value in optional.items() if value}


@dataclass(slots=True, eq=False)
class Message:
    """One message, with all its former contents."""

    channel: Channel
    author: User
    content: str = ""
    flags: int = 0
    components: list[Json] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    embeds: list[Json] = field(default_factory=list)
    allowed_mentions: Json | None = None
    deleted: bool = False
    edits: list[tuple[float, str]] = field(default_factory=list)  # (when, content); the first entry is its creation
    id: int = field(default_factory=snowflake)
    type: int = DEFAULT
    created_at: float = 0.0
    reference: Message | None = None  # what it replies to
    mentions: list[User] = field(default_factory=list)
    mention_roles: list[Role] = field(default_factory=list)
    mention_everyone: bool = False
    webhook_id: int | None = None
    application_id: int | None = None  # whose webhook it is
    interaction: Interaction | None = None  # which it answers
    reactions: dict[str, list[User]] = field(default_factory=dict)
    thread: Channel | None = None  # the one that began at this message, or that a system message tells of
    nonce: str | int | None = None

    @property
    def ephemeral(self) -> bool:
        return bool(self.flags & EPHEMERAL)

    @property
    def loading(self) -> bool:
        return bool(self.flags & LOADING)

    def all_components(self) -> list[Json]:
        """All components that can be used, at any depth."""
        return usable_components(self.components)

    def buttons(self) -> list[Json]:
        return [item for item in self.all_components() if item["type"] == 2]

    def runs(self) -> bool:
        """Whether a reply is still being written here: "thinking…", or a button to stop it."""
        return self.loading or any(
            button.get("label") == "Stop" or button.get("custom_id", "").startswith(STOP_KIND)
            for button in self.buttons()
        )

    def json(self, *, event: bool = False, nested: bool = False) -> Json:
        """`event`: with what only the gateway sends. `nested`: as a part of another message."""
        guild = self.channel.guild
        bot_id = guild.bot.id if guild else None
        data: Json = {
            "id": str(self.id), "channel_id": str(self.channel.id), "author": self.author.json(), "type": self.type,
            "content": self.content, "timestamp": iso_time(self.created_at), "tts": False, "pinned": False,
            "edited_timestamp": iso_time(self.edits[-1][0]) if len(self.edits) > 1 else None, "flags": self.flags,
            "mentions": [user.json() for user in self.mentions], "mention_everyone": self.mention_everyone,
            "mention_roles": [str(role.id) for role in self.mention_roles], "embeds": self.embeds,
            "components": self.components, "attachments": [attachment.json() for attachment in self.attachments],
        }  # fmt: skip
        if self.reactions:
            data["reactions"] = [
                {"emoji": emoji_json(emoji), "count": len(users), "count_details": {"burst": 0, "normal": len(users)},
                 "me": any(user.id == bot_id for user in users), "me_burst": False, "burst_colors": []}
                for emoji, users in self.reactions.items()
            ]  # fmt: skip
        if self.webhook_id:
            data["webhook_id"] = str(self.webhook_id)
        if self.webhook_id and not self.interaction:
            data["author"] |= {"id": str(self.webhook_id), "bot": True, "discriminator": "0000"}
        if self.application_id:
            data["application_id"] = str(self.application_id)
        if self.nonce is not None:
            data["nonce"] = self.nonce
        if self.interaction:
            data |= {"application_id": str(self.webhook_id), "interaction_metadata": self.interaction.metadata()}
        if self.thread and self.type == THREAD_CREATED:
            data["message_reference"] = {"channel_id": str(self.thread.id), "guild_id": str(guild.id) if guild else ""}
        elif self.thread:
            data["thread"] = self.thread.json()
        if self.reference:
            about = {"type": 0, "message_id": str(self.reference.id), "channel_id": str(self.reference.channel.id)}
            data["message_reference"] = about | ({"guild_id": str(guild.id)} if guild else {})
            if not nested:
                data["referenced_message"] = None if self.reference.deleted else self.reference.json(nested=True)
        if event and guild:
            data["guild_id"] = str(guild.id)
            if not self.webhook_id or self.interaction:
                data["member"] = guild.member(self.author)
            data["mentions"] = [{**user.json(), "member": guild.member(user)} for user in self.mentions]
        return data

    def find_mentions(self, users: dict[int, User]) -> None:
        """Find out whom the text mentions: outside of code, and only as far as the allowed mentions permit."""
        text = CODE.sub(" ", self.content)
        allowed = self.allowed_mentions
        parse = {"users", "roles", "everyone"} if allowed is None else set(allowed.get("parse") or ())
        named = {int(each) for key in ("users", "roles") for each in (allowed or {}).get(key) or ()}
        found = dict.fromkeys(int(each) for each in re.findall(r"<@!?(\d{1,20})>", text))
        self.mentions = [users[key] for key in found if key in users and ("users" in parse or key in named)]
        guild = self.channel.guild
        may = guild.permissions(self.author, self.channel) if guild else EVERYONE
        everyone = bool(may & Permission.MENTION_EVERYONE)
        self.mention_everyone = everyone and "everyone" in parse and bool(re.search(r"@(everyone|here)\b", text))
        pinged = {int(each) for each in re.findall(r"<@&(\d{1,20})>", text)}
        self.mention_roles = [
            role
            for role in (guild.all_roles() if guild else ())
            if role.id in pinged and (everyone or role.mentionable) and ("roles" in parse or role.id in named)
        ]


@dataclass(slots=True, eq=False)
class Interaction:
    """One interaction: what was asked, the type of its first response, and the messages of the response."""

    type: int
    user: User
    guild: Guild | None
    channel: Channel
    data: Json
    created_at: float
    token: str
    message: Message | None = None  # the one whose component was used
    owners: dict[str, str] = field(default_factory=dict)  # who installed the application: 0 the guild, 1 the user
    callback_type: int | None = None  # of the first response; see `interaction_routes.CALLBACK_TYPES`
    acknowledged_at: float | None = None  # when that came
    original: Message | None = None
    followups: list[Message] = field(default_factory=list)
    modal: Json | None = None
    choices: list[Json] | None = None  # the answer of an autocomplete
    num_followups: int = 0  # with deleted ones
    id: int = field(default_factory=snowflake)

    @property
    def by_user_install(self) -> bool:
        """Whether only the user, and not the guild, installed the application."""
        return "0" not in self.owners

    def messages(self) -> list[Message]:
        """The response and follow-ups that the user can see now, in order."""
        own = [self.original] if self.original and self.callback_type in (4, 5) else []
        return [message for message in own + self.followups if not message.deleted]

    def texts(self) -> list[str]:
        """The text of each message, without the user's question that is quoted above the answer."""
        texts = [message.content for message in self.messages()]
        if texts and self.asked():
            lines = texts[0].split("\n")
            while len(lines) > 1 and lines[0].startswith("> "):
                lines.pop(0)
            texts[0] = "\n".join(lines)
        return texts

    def reply(self) -> str:
        """The first of these texts."""
        return self.texts()[0] if self.messages() else ""

    def asked(self) -> str:
        """What the user typed into the option `message` of a command."""
        options = self.data.get("options", []) if self.type == 2 else []
        return next((str(each.get("value", "")) for each in options if each.get("name") == "message"), "")

    def done(self) -> bool:
        """Whether the response is complete: no "thinking…" and no button that stops a running reply is left."""
        if self.modal is not None or self.callback_type == 8:
            return True
        if self.callback_type in (6, 7):
            shown = [each for each in (self.original, *self.followups) if each and not each.deleted]
            return not any(message.runs() for message in shown)
        return bool(self.messages()) and not any(message.runs() for message in self.messages())

    def metadata(self) -> Json:
        """The interaction as a message shows it."""
        data: Json = {"id": str(self.id), "type": self.type, "user": self.user.json(),
                      "authorizing_integration_owners": self.owners}  # fmt: skip
        if self.message:
            data["interacted_message_id"] = str(self.message.id)
        return data

    def app_permissions(self) -> int:
        if self.guild is None or self.by_user_install:
            return OUTSIDE_GUILDS
        return self.guild.permissions(self.guild.bot, self.channel)

    def json(self, application_id: int) -> Json:
        context = 0 if self.guild else 1 if self.channel.recipient else 2
        payload: Json = {
            "id": str(self.id), "application_id": str(application_id), "type": self.type, "token": self.token,
            "version": 1, "channel": self.channel.json(self.user), "channel_id": str(self.channel.id),
            "locale": self.user.locale, "app_permissions": str(int(self.app_permissions())), "entitlements": [],
            "entitlement_sku_ids": [], "attachment_size_limit": self.guild.file_limit if self.guild else 10 * 2**20,
            "context": context, "data": self.data, "authorizing_integration_owners": self.owners,
        }  # fmt: skip
        if self.guild:
            payload["guild_id"] = str(self.guild.id)
            payload["guild"] = {"id": str(self.guild.id), "locale": self.guild.locale, "features": []}
            payload["guild_locale"] = self.guild.locale
            allowed = self.guild.permissions(self.user, self.channel)
            payload["member"] = {**self.guild.member(self.user), "user": self.user.json(),
                                 "permissions": str(int(allowed))}  # fmt: skip
        else:
            payload["user"] = self.user.json()
        if self.message is not None:
            payload["message"] = self.message.json()
        return payload


def emoji_json(emoji: str) -> Json:
    name, _, number = emoji.partition(":")
    return {"id": number or None, "name": name}


def usable_components(components: list[Any]) -> list[Json]:
    """The components of these that can be used, at any depth, in order."""
    found: list[Json] = []
    for item in components:
        if item.get("type") in INTERACTIVE:
            found.append(item)
        inner = [*item.get("components", ()), *filter(None, (item.get("accessory"), item.get("component")))]
        found += usable_components(inner)
    return found
