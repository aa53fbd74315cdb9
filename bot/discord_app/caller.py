"""Who speaks to the bot, and where: the same for slash commands, messages, buttons, modals and reactions.

Knows discord.py's objects. A `Caller` holds ids and permissions only: it can be compared, stored and tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import discord

from models.types import DIRECT_MESSAGES, DialogKey, DialogScope, GuildSettings

Interaction = discord.Interaction[Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """A member in a channel of a guild, or a user in direct messages (guild id 0).

    Where the bot itself is not, and only this user brought it along, they are a user in direct messages too: nobody
    there has agreed to anything, so no rule, persona or dialog of a guild applies, and none of its ids is stored.
    """

    user_id: int
    guild_id: int
    channel_id: int
    parent_id: int
    """The channel of a thread; elsewhere the channel itself."""
    name: str
    category_id: int = 0
    """The category of the channel; 0 if it has none."""
    role_ids: frozenset[int] = frozenset()
    manages_guild: bool = False
    """Whether they have Manage Server in this guild. It never applies in another guild or in direct messages."""
    reads_history: bool = True
    """Whether they may read the earlier messages of this channel."""
    creates_threads: bool = False
    """Whether they may start public threads in this channel; known of interactions only."""
    age_restricted: bool = False
    """Whether Discord restricts this channel by age; a thread is as its channel. False where it is not known."""
    bot_is_absent: bool = False
    """Whether the bot reaches this place through the tokens of interactions only: a guild that has not invited it, or
    a private channel of others."""

    @property
    def in_thread(self) -> bool:
        """Whether this is a thread of a channel."""
        return self.parent_id != self.channel_id

    @property
    def channel_ids(self) -> frozenset[int]:
        """The channel and, of a thread, its parent: a rule for either applies."""
        return frozenset({self.channel_id, self.parent_id})

    @property
    def place_ids(self) -> frozenset[int]:
        """The same with the category: a lock on any of them applies."""
        return self.channel_ids | ({self.category_id} - {0})


def caller_of(interaction: Interaction) -> Caller:
    """Who used a command, pressed a button or submitted a modal."""
    user = interaction.user
    permissions = interaction.permissions
    channel_id = interaction.channel_id or 0
    if not _bot_is_in(interaction):
        return Caller(user.id, DIRECT_MESSAGES, channel_id, channel_id, user.display_name, bot_is_absent=True)
    return Caller(
        user_id=user.id,
        guild_id=interaction.guild_id or DIRECT_MESSAGES,
        channel_id=channel_id,
        parent_id=_parent_id(interaction.channel, channel_id),
        name=user.display_name,
        category_id=_category_id(interaction.channel),
        role_ids=role_ids_of(user),
        manages_guild=interaction.guild_id is not None and (permissions.manage_guild or permissions.administrator),
        reads_history=permissions.read_message_history or permissions.administrator or interaction.guild_id is None,
        creates_threads=interaction.guild_id is not None and permissions.create_public_threads,
        age_restricted=is_age_restricted(interaction.channel),
    )


def _bot_is_in(interaction: Interaction) -> bool:
    """Whether the bot itself is in this guild, or in this channel of direct messages.

    A guild must be named by Discord as one that installed the bot, and be known from the gateway. One that only allows
    the bot's commands is not a place of the bot: nothing would tell when its data is to be deleted.
    """
    if interaction.guild_id is None:
        group = interaction.channel is not None and interaction.channel.type is discord.ChannelType.group
        return not group and not interaction.context.private_channel
    owners = interaction._integration_owners  # who installed the bot, by the type of installation; always sent
    installed = not owners or owners.get(discord.app_commands.AppInstallationType.GUILD) == interaction.guild_id
    return installed and interaction.client.get_guild(interaction.guild_id) is not None


def author_of(message: discord.Message) -> Caller:
    """Who wrote a message."""
    author = message.author
    manages_guild = False
    if isinstance(author, discord.Member):
        permissions = author.guild_permissions
        manages_guild = permissions.manage_guild or permissions.administrator
    return Caller(
        user_id=author.id,
        guild_id=message.guild.id if message.guild else DIRECT_MESSAGES,
        channel_id=message.channel.id,
        parent_id=_parent_id(message.channel, message.channel.id),
        name=author.display_name,
        category_id=_category_id(message.channel),
        role_ids=role_ids_of(author),
        manages_guild=manages_guild,
        age_restricted=is_age_restricted(message.channel),
    )


def reactor_of(event: discord.RawReactionActionEvent, bot: discord.Client) -> Caller:
    """Who reacted to a message."""
    member = event.member
    guild = bot.get_guild(event.guild_id) if event.guild_id else None
    channel = guild.get_channel_or_thread(event.channel_id) if guild else None
    return Caller(
        user_id=event.user_id,
        guild_id=event.guild_id or DIRECT_MESSAGES,
        channel_id=event.channel_id,
        parent_id=_parent_id(channel, event.channel_id),
        name=member.display_name if member else "",
        category_id=_category_id(channel),
        role_ids=role_ids_of(member),
        age_restricted=is_age_restricted(channel),
    )


def dialog_scope(caller: Caller, settings: GuildSettings, *, bound: bool = False) -> DialogScope:
    """The scope of dialogs here: the thread's own, else its channel's, else the guild's.

    `bound`: the thread was started for a conversation, which all who write there share unless it has its own scope.
    """
    scopes = dict(settings.channel_scopes)
    here = scopes.get(caller.channel_id) or ("thread" if bound else None)
    return here or scopes.get(caller.parent_id) or settings.dialog_scope


def dialog_key(caller: Caller, scope: DialogScope = "member", *, private: bool = False) -> DialogKey:
    """Whose dialog the caller speaks in, in ids only: names can change hands.

    `member`: one dialog a member in the whole guild; `member-channel`: one a member in each channel, threads included;
    `member-thread`: one a member in each channel and in each thread. With `channel` and `thread`, all members share the
    dialog of such a place. In direct messages there is one. A `private` message belongs to no shared dialog, but to the
    member's own one in that place.
    """
    if caller.guild_id == DIRECT_MESSAGES or scope == "member":
        return DialogKey(caller.guild_id, caller.user_id)
    place = caller.parent_id if scope.endswith("channel") else caller.channel_id
    return DialogKey(caller.guild_id, caller.user_id, place, shared=not private and scope in ("channel", "thread"))


def _parent_id(channel: object, channel_id: int) -> int:
    return channel.parent_id if isinstance(channel, discord.Thread) else channel_id


def _category_id(channel: object) -> int:
    """The category of a channel, or of a thread's channel; 0 if it has none, or is not known."""
    if isinstance(channel, discord.Thread):
        channel = channel.parent
    return channel.category_id or 0 if isinstance(channel, discord.abc.GuildChannel) else 0


def is_age_restricted(channel: object) -> bool:
    """Whether Discord restricts a channel of a guild by age. A thread is as its channel; an unknown one is not."""
    if isinstance(channel, discord.Thread):
        channel = channel.parent
    restricted = getattr(channel, "nsfw", False) if isinstance(channel, discord.abc.GuildChannel) else False
    return bool(restricted)


def role_ids_of(user: discord.User | discord.Member | None) -> frozenset[int]:
    """The member's roles in the guild; none in direct messages."""
    if not isinstance(user, discord.Member):
        return frozenset()
    # `Member.roles` leaves out roles that are not cached, as during an outage. @everyone has the guild's id.
    return frozenset({*user._roles, user.guild.id})
