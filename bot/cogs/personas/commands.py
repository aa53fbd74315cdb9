"""/persona: who answers in a guild and its places. Everyone may ask; members with Manage Server decide.

Thin: what the commands do is in setting.py, library.py and rules.py, the same for members in own_commands.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import discord
from discord import app_commands
from discord.app_commands import AppCommandChannel, AppCommandThread, Choice, Range

from bot.cogs.dialogs.answers import OldButton
from bot.cogs.personas.afresh import choice_of
from bot.cogs.personas.library import PersonaEntries
from bot.cogs.personas.places import GUILD, WHERE, PlaceOption, slot_named
from bot.cogs.personas.rules import PersonaRules
from bot.cogs.personas.setting import PersonaSetting
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.command_visibility import BY_GUILDS, IN_GUILDS
from bot.discord_app.rest.message_api import MessageApi
from bot.guilds.persona_checks import MAX_NAME_CHARS
from models.types import OwnPersonas

CONVERSATIONS = [Choice(name="keep them", value="keep"), Choice(name="begin afresh", value="afresh")]
Name = Range[str, 1, MAX_NAME_CHARS]
Version = Range[int, 1, 1_000_000_000]
_WHO = [
    Choice(name="all members", value="members"),
    Choice(name="members with a role", value="roles"),
    Choice(name="nobody", value="nobody"),
]


class GuildPersonas(FeatureCog):
    """The commands for the personas of a guild."""

    persona = app_commands.Group(
        name="persona",
        description="Who I am in this guild",
        guild_only=True,
        allowed_contexts=IN_GUILDS,
        allowed_installs=BY_GUILDS,
    )

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        super().__init__(context)
        self._setting = PersonaSetting(context, api)
        self._entries = PersonaEntries(context, api, own=False)
        self._rules = PersonaRules(context)

    @persona.command(name="set", description="Say who I am. Without a known name or a prompt, a form opens.")
    @app_commands.describe(
        prompt="What I am told before every conversation: “You are …”",
        name="A persona that this guild keeps, or a name for a new one",
        where="Where it answers (default: in this guild)",
        conversations="What becomes of the conversations there (default: they go on, and I ask)",
        age_restricted="Whether it answers only in age-restricted channels",
    )
    @app_commands.choices(where=WHERE, conversations=CONVERSATIONS)
    async def set_persona(
        self,
        interaction: Interaction,
        prompt: str | None = None,
        name: Name | None = None,
        where: str | None = None,
        conversations: str | None = None,
        age_restricted: bool | None = None,
    ) -> None:
        """/persona set."""
        slot = slot_named(caller_of(interaction), where)
        await self._setting.set(interaction, slot, name, prompt, choice_of(conversations), age_restricted)

    @persona.command(name="show", description="Show who answers you here, and why.")
    async def show(self, interaction: Interaction) -> None:
        """/persona show."""
        await self._setting.show(interaction)

    @persona.command(name="list", description="Show the personas that this guild keeps.")
    @app_commands.describe(tag="Only those with this tag")
    async def show_list(self, interaction: Interaction, tag: Range[str, 1, 30] | None = None) -> None:
        """/persona list."""
        await self._entries.show_list(interaction, tag)

    @persona.command(name="create", description="Write a new persona. It answers once it is set.")
    @app_commands.describe(name="What to call it")
    async def create(self, interaction: Interaction, name: Name | None = None) -> None:
        """/persona create."""
        await self._entries.create(interaction, name)

    @persona.command(name="edit", description="Change a persona: text, name and tags.")
    @app_commands.describe(name="Which one")
    async def edit(self, interaction: Interaction, name: str) -> None:
        """/persona edit."""
        await self._entries.edit(interaction, name)

    @persona.command(name="tags", description="Give a persona tags, to find it by.")
    @app_commands.describe(name="Which one", tags="Words with commas between; none to take them away")
    async def tags(self, interaction: Interaction, name: str, tags: Range[str, 0, 400] = "") -> None:
        """/persona tags."""
        await self._entries.tag(interaction, name, tags)

    @persona.command(name="rating", description="Let a persona answer only in age-restricted channels, or everywhere.")
    @app_commands.describe(name="Which one", age_restricted="Whether it is only for age-restricted channels")
    async def rating(self, interaction: Interaction, name: str, age_restricted: bool) -> None:
        """/persona rating."""
        await self._entries.rate(interaction, name, age_restricted=age_restricted)

    @persona.command(name="delete", description="Delete a persona for good. I ask you first.")
    @app_commands.describe(name="Which one")
    async def delete(self, interaction: Interaction, name: str) -> None:
        """/persona delete."""
        await self._entries.delete(interaction, name)

    @persona.command(name="versions", description="Show what a persona has been before.")
    @app_commands.describe(name="Which one (default: this guild's)")
    async def versions(self, interaction: Interaction, name: str | None = None) -> None:
        """/persona versions."""
        await self._entries.versions(interaction, name)

    @persona.command(name="rollback", description="Put an earlier version of a persona back in force.")
    @app_commands.describe(version="Its number, as in the list of versions", name="Which one (default: this guild's)")
    async def rollback(self, interaction: Interaction, version: Version, name: str | None = None) -> None:
        """/persona rollback."""
        await self._setting.rollback(interaction, GUILD, name, version)

    @persona.command(name="clear", description="Go back to who I was before a persona was set. It is kept.")
    @app_commands.describe(where="Where (default: in this guild)")
    @app_commands.choices(where=WHERE)
    async def clear(self, interaction: Interaction, where: str | None = None) -> None:
        """/persona clear."""
        await self._setting.clear(interaction, slot_named(caller_of(interaction), where))

    @persona.command(name="allow", description="Choose who may have a persona of their own in this guild.")
    @app_commands.describe(who="Who may", role="One more role whose members may")
    @app_commands.choices(who=_WHO)
    async def allow(self, interaction: Interaction, who: str, role: discord.Role | None = None) -> None:
        """/persona allow."""
        known: Mapping[str, OwnPersonas] = {"members": "members", "roles": "roles", "nobody": "nobody"}
        await self._rules.allow(interaction, known.get(who, "nobody"), role)

    @persona.command(name="lock", description="Let no member's own persona answer in a place.")
    @app_commands.describe(channel="Category, channel or thread (default: this one)")
    async def lock(self, interaction: Interaction, channel: PlaceOption | None = None) -> None:
        """/persona lock."""
        await self._rules.lock(interaction, _id_of(interaction, channel), locked=True)

    @persona.command(name="unlock", description="Let members' own personas answer in a place again.")
    @app_commands.describe(channel="Category, channel or thread (default: this one)")
    async def unlock(self, interaction: Interaction, channel: PlaceOption | None = None) -> None:
        """/persona unlock."""
        await self._rules.lock(interaction, _id_of(interaction, channel), locked=False)

    @set_persona.autocomplete("name")
    @edit.autocomplete("name")
    @tags.autocomplete("name")
    @rating.autocomplete("name")
    @delete.autocomplete("name")
    @versions.autocomplete("name")
    @rollback.autocomplete("name")
    async def _suggested(self, interaction: Interaction, current: str) -> list[Choice[str]]:
        return await self._entries.suggestions(interaction, current)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The forms and buttons that change something, and those of the list that everyone may read."""
        return {Action.GUILD_PERSONA.value: self._changed, Action.READ_PERSONAS.value: self._paged}

    async def _changed(self, interaction: Interaction, argument: str) -> None:
        word, _, rest = argument.partition(":")
        if word == "set":
            await self._setting.submitted(interaction, False, rest)
        elif word == "dialogs":
            await self._setting.conversations.pressed(interaction, False, rest)
        elif not await entry_changed(self._entries, interaction, word, rest):
            raise OldButton()

    async def _paged(self, interaction: Interaction, argument: str) -> None:
        word, _, rest = argument.partition(":")
        if word != "list":
            raise OldButton()
        await self._entries.turn_page(interaction, rest)


async def entry_changed(entries: PersonaEntries, interaction: Interaction, word: str, rest: str) -> bool:
    """Serve a form or button about an entry of a library. False if it is not about one."""
    if word == "create":
        await entries.created(interaction)
    elif word == "edit":
        await entries.edited(interaction, rest)
    elif word == "delete":
        await entries.delete_confirmed(interaction, rest)
    else:
        return False
    return True


def _id_of(interaction: Interaction, place: AppCommandChannel | AppCommandThread | None) -> int:
    return caller_of(interaction).channel_id if place is None else place.id
