"""/me persona: a member's own personas, which answer them alone, where the guild allows it. For everyone."""

from __future__ import annotations

from collections.abc import Mapping

from discord import app_commands
from discord.app_commands import Choice, Range

from bot.cogs.dialogs.answers import OldButton
from bot.cogs.personas.afresh import choice_of
from bot.cogs.personas.commands import CONVERSATIONS, Name, Version, entry_changed
from bot.cogs.personas.library import PersonaEntries
from bot.cogs.personas.places import MEMBER
from bot.cogs.personas.setting import PersonaSetting
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.rest.message_api import MessageApi


class OwnPersonas(FeatureCog):
    """The commands for the personas of a member, in guilds and in direct messages."""

    me = app_commands.Group(name="me", description="What concerns only you")
    persona = app_commands.Group(name="persona", description="Who I am for you, here", parent=me)

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        super().__init__(context)
        self._setting = PersonaSetting(context, api)
        self._entries = PersonaEntries(context, api, own=True)

    @persona.command(name="set", description="Say who I am for you. Without a known name or a prompt, a form opens.")
    @app_commands.describe(
        prompt="What I am told before every conversation: “You are …”",
        name="One of your personas, or a name for a new one",
        conversations="What becomes of our conversation here (default: it goes on, and I ask)",
        age_restricted="Whether it answers only in age-restricted channels",
    )
    @app_commands.choices(conversations=CONVERSATIONS)
    async def set_persona(
        self,
        interaction: Interaction,
        prompt: str | None = None,
        name: Name | None = None,
        conversations: str | None = None,
        age_restricted: bool | None = None,
    ) -> None:
        """/me persona set."""
        await self._setting.set(interaction, MEMBER, name, prompt, choice_of(conversations), age_restricted)

    @persona.command(name="show", description="Show who I am for you here.")
    async def show(self, interaction: Interaction) -> None:
        """/me persona show."""
        await self._setting.show_own(interaction)

    @persona.command(name="list", description="Show your own personas here.")
    @app_commands.describe(tag="Only those with this tag")
    async def show_list(self, interaction: Interaction, tag: Range[str, 1, 30] | None = None) -> None:
        """/me persona list."""
        await self._entries.show_list(interaction, tag)

    @persona.command(name="create", description="Write a persona of your own. It answers once it is set.")
    @app_commands.describe(name="What to call it")
    async def create(self, interaction: Interaction, name: Name | None = None) -> None:
        """/me persona create."""
        await self._entries.create(interaction, name)

    @persona.command(name="edit", description="Change a persona of yours: text, name and tags.")
    @app_commands.describe(name="Which one")
    async def edit(self, interaction: Interaction, name: str) -> None:
        """/me persona edit."""
        await self._entries.edit(interaction, name)

    @persona.command(name="rating", description="Let a persona answer only in age-restricted channels, or everywhere.")
    @app_commands.describe(name="Which one", age_restricted="Whether it is only for age-restricted channels")
    async def rating(self, interaction: Interaction, name: str, age_restricted: bool) -> None:
        """/me persona rating."""
        await self._entries.rate(interaction, name, age_restricted=age_restricted)

    @persona.command(name="delete", description="Delete a persona of yours for good. I ask you first.")
    @app_commands.describe(name="Which one")
    async def delete(self, interaction: Interaction, name: str) -> None:
        """/me persona delete."""
        await self._entries.delete(interaction, name)

    @persona.command(name="versions", description="Show what a persona of yours has been before.")
    @app_commands.describe(name="Which one (default: the one that is set)")
    async def versions(self, interaction: Interaction, name: str | None = None) -> None:
        """/me persona versions."""
        await self._entries.versions(interaction, name)

    @persona.command(name="rollback", description="Put an earlier version of a persona of yours back in force.")
    @app_commands.describe(
        version="Its number, as in the list of versions", name="Which one (default: the one that is set)"
    )
    async def rollback(self, interaction: Interaction, version: Version, name: str | None = None) -> None:
        """/me persona rollback."""
        await self._setting.rollback(interaction, MEMBER, name, version)

    @persona.command(name="clear", description="Go back to who I was before your own persona was set. It is kept.")
    async def clear(self, interaction: Interaction) -> None:
        """/me persona clear."""
        await self._setting.clear(interaction, MEMBER)

    @set_persona.autocomplete("name")
    @edit.autocomplete("name")
    @rating.autocomplete("name")
    @delete.autocomplete("name")
    @versions.autocomplete("name")
    @rollback.autocomplete("name")
    async def _suggested(self, interaction: Interaction, current: str) -> list[Choice[str]]:
        return await self._entries.suggestions(interaction, current)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The forms and buttons."""
        return {Action.OWN_PERSONA.value: self._used}

    async def _used(self, interaction: Interaction, argument: str) -> None:
        word, _, rest = argument.partition(":")
        if word == "list":
            await self._entries.turn_page(interaction, rest)
        elif word in ("set", "persona"):  # the form of an earlier version had no more than "me:persona"
            await self._setting.submitted(interaction, True, rest)
        elif word == "dialogs":
            await self._setting.conversations.pressed(interaction, True, rest)
        elif not await entry_changed(self._entries, interaction, word, rest):
            raise OldButton()
