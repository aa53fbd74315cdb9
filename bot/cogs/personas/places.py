"""Where a persona can be set, as the commands name the places, and the channels and threads that belong to each.

Knows discord.py's guilds. The place of a persona is always where the command is used, or something that it is in; what
`/persona lock` takes may be anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import discord
from discord import app_commands
from discord.app_commands import AppCommandChannel, AppCommandThread, Transform

from bot.discord_app.caller import Caller
from bot.discord_app.context import Interaction
from bot.errors import BotError
from bot.i18n.language import gettext as _
from models.types import LARGEST_ID, PersonaPlace, StoredLevel

WHERE = [
    app_commands.Choice(name="in this guild", value="guild"),
    app_commands.Choice(name="in this category", value="category"),
    app_commands.Choice(name="in this channel, its threads included", value="channel"),
    app_commands.Choice(name="in this thread", value="thread"),
]


class _Place(app_commands.Transformer):
    """A category, channel or thread."""

    @property
    def type(self) -> discord.AppCommandOptionType:
        return discord.AppCommandOptionType.channel

    @property
    def channel_types(self) -> list[discord.ChannelType]:
        kinds = discord.ChannelType
        threads = [kinds.news_thread, kinds.public_thread, kinds.private_thread]
        return [kinds.category, kinds.text, kinds.news, kinds.voice, kinds.stage_voice, kinds.forum, *threads]

    async def transform(self, interaction: Interaction, value: object, /) -> AppCommandChannel | AppCommandThread:
        if not isinstance(value, AppCommandChannel | AppCommandThread):
            raise app_commands.TransformerError(value, self.type, self)
        return value


PlaceOption = Transform[AppCommandChannel | AppCommandThread, _Place]
"""An option of a command that takes any of them."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A level at which a persona can be set; `place_id` is 0 for the guild and for a member."""

    level: StoredLevel
    place_id: int = 0

    @property
    def own(self) -> bool:
        """Whether it is that of a member, who has a library of their own."""
        return self.level == "member"

    @property
    def word(self) -> str:
        """How a custom id names it."""
        return f"{self.level}-{self.place_id}"


GUILD, MEMBER = Slot("guild"), Slot("member")


def slot_named(caller: Caller, where: str | None) -> Slot:
    """The place that the command means. Raises BotError where there is none of this kind."""
    if where in (None, "guild"):
        return GUILD
    if where == "category":
        if not caller.category_id:
            raise BotError(_("This channel is in no category."))
        return Slot("category", caller.category_id)
    if where == "channel":
        return Slot("channel", caller.parent_id)
    if where == "thread":
        if not caller.in_thread:
            raise BotError(_("This is no thread. Use the command in the thread, or choose the channel."))
        return Slot("thread", caller.channel_id)
    raise BotError(_("There is no such place. Choose the guild, the category, the channel or the thread."))


def slot_of_word(word: str) -> Slot | None:
    """The place that a custom id names; None for anything else."""
    level, _, place = word.partition("-")
    if not place.isascii() or not place.isdecimal() or len(place) > 19 or int(place) > LARGEST_ID:
        return None
    if word == MEMBER.word:
        return MEMBER
    places: tuple[PersonaPlace, ...] = get_args(PersonaPlace)
    found = next((each for each in places if each == level), None)
    return Slot(found, int(place)) if found and (found == "guild") == (place == "0") else None


def channels_of(guild: discord.Guild | None, slot: Slot) -> frozenset[int] | None:
    """The channels and threads that a place consists of, as far as the gateway named them; None for the whole guild."""
    if slot.level == "guild":
        return None
    channels = {slot.place_id}
    if guild is not None and slot.level == "category":
        channels |= {each.id for each in guild.channels if each.category_id == slot.place_id}
    if guild is not None:
        channels |= {each.id for each in guild.threads if each.parent_id in channels}
    return frozenset(channels)
