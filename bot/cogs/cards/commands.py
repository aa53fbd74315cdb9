"""`/persona import·export·greeting`, those under `/me persona`, and "Import character card" in the menu of a message.

A card is loaded and looked into first, and shown as a preview with buttons; nothing is stored before one is pressed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal

import discord
from discord import app_commands
from discord.ext import commands

from bot.cogs.cards.greetings import CHOOSE, GreetingChoice
from bot.cogs.cards.previews import CardPreviews
from bot.cogs.cards.reading import likely_cards
from bot.cogs.personas.suggestions import suggested_names
from bot.discord_app.caller import Caller, caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import CARD_MENU, Action
from bot.discord_app.permissions.authorise import NotAllowed, authorise
from bot.discord_app.replies.offered_files import offered_files
from bot.discord_app.replies.quoted_messages import quoted
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import NO_MENTIONS


class Cards(FeatureCog):
    """Imports and exports of character cards, and which of their greetings is used."""

    def __init__(self, bot: commands.Bot, context: CommandContext, api: MessageApi) -> None:
        super().__init__(context)
        self._bot = bot
        self._previews = CardPreviews(context, api)
        self._greetings = GreetingChoice(context, api)
        self._menu = app_commands.ContextMenu(name=CARD_MENU, callback=self.import_from_message)

    async def cog_load(self) -> None:
        """Register the menu: discord.py does so by itself for slash commands only."""
        self._bot.tree.add_command(self._menu)

    async def cog_unload(self) -> None:
        """Take the menu back."""
        self._bot.tree.remove_command(self._menu.name, type=self._menu.type)

    def add_to(self, guild: app_commands.Group, own: app_commands.Group) -> None:
        """Add the subcommands to `/persona` and `/me persona`."""
        for group, is_own in ((guild, False), (own, True)):
            for command in self._commands(own=is_own):
                group.add_command(command)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The buttons under a preview, and the choice of a greeting."""
        return {Action.CARD.value: self._own_pressed, Action.GUILD_CARD.value: self._guild_pressed}

    def _commands(self, *, own: bool) -> list[app_commands.Command[app_commands.Group, ..., None]]:
        whose = "your own personas" if own else "this guild's personas"

        @app_commands.command(name="import", description=f"Put a character card among {whose}.")
        @app_commands.describe(
            file="The card: PNG, JSON or CHARX",
            name="Another name than the card's",
            replace="Put it in place of the persona of the same name",
        )
        async def import_card(
            interaction: Interaction, file: discord.Attachment, name: str = "", replace: bool = False
        ) -> None:
            if await defer(interaction, ephemeral=True):
                await self._previews.show(
                    interaction, offered_files([file]), own=own, guild=not own, name=name, replace=replace
                )

        @app_commands.command(name="export", description=f"Get one of {whose} as a character card.")
        @app_commands.describe(name="Which one", format="png: a picture with the card in it. json: the card alone")
        async def export_card(interaction: Interaction, name: str, format: Literal["png", "json"] = "png") -> None:
            if await defer(interaction, ephemeral=True):
                await self._export(interaction, name, format, own=own)

        @app_commands.command(name="greeting", description="Choose how a character begins conversations.")
        @app_commands.describe(name="Which one; its greetings come with its card")
        async def greeting(interaction: Interaction, name: str) -> None:
            await self._greetings.show(interaction, name, own=own)

        @greeting.autocomplete("name")
        @export_card.autocomplete("name")
        async def suggest(interaction: Interaction, typed: str) -> list[app_commands.Choice[str]]:
            return await suggested_names(self.context.personas.library, interaction, typed, own=own)

        return [import_card, export_card, greeting]

    async def import_from_message(self, interaction: Interaction, message: discord.Message) -> None:
        """Look for a card among the files of a message."""
        me, caller = self._bot.user, caller_of(interaction)
        likely = likely_cards(quoted(message, bot_id=me.id if me else 0).files)
        if await defer(interaction, ephemeral=True):
            await self._previews.show(interaction, likely, own=True, guild=_may_import_for_guild(caller))

    async def _own_pressed(self, interaction: Interaction, argument: str) -> None:
        await self._pressed(interaction, argument, own=True)

    async def _guild_pressed(self, interaction: Interaction, argument: str) -> None:
        await self._pressed(interaction, argument, own=False)

    async def _pressed(self, interaction: Interaction, argument: str, *, own: bool) -> None:
        word, _, rest = argument.partition(":")
        if word == CHOOSE:
            await self._greetings.chosen(interaction, rest, own=own)
        else:
            await self._previews.pressed(interaction, argument, own=own)

    async def _export(self, interaction: Interaction, name: str, form: Literal["png", "json"], *, own: bool) -> None:
        key, personas = dialog_key(caller_of(interaction)), self.context.personas
        found = await personas.library.named(key, name, own=own)
        card = await personas.cards.export(key, found, own=own, form=form, max_bytes=interaction.filesize_limit)
        file = discord.File(io.BytesIO(card.data), card.name)
        await interaction.followup.send(file=file, ephemeral=True, allowed_mentions=NO_MENTIONS)


def _may_import_for_guild(caller: Caller) -> bool:
    try:
        authorise(caller, Action.GUILD_CARD, None)
    except NotAllowed:
        return False
    return True
