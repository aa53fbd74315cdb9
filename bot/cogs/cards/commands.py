"""`/persona import·export`, `/me persona import·export`, and "Import character card" in the menu of a message.

A card is loaded and looked into first, and shown as a preview with buttons; nothing is stored before one is pressed.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from typing import Literal

import discord
import structlog
from discord import app_commands
from discord.ext import commands

from bot.attachments.types import FileRefused, OfferedFile
from bot.characters.files.json_card import write
from bot.characters.files.reading import ImportedCard, read_file
from bot.characters.preview import preview
from bot.chat.prompts.speakers import clean_name
from bot.cogs.cards.pending import PendingCard, PendingCards
from bot.cogs.cards.text import CANCELLED, TOO_LATE, imported_text, preview_components, preview_text
from bot.cogs.dialogs.answers import OldButton, answer, begin, number
from bot.cogs.personas.announcing import announce_edit
from bot.discord_app.caller import Caller, caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions import CARD_MENU, Action, NotAllowed, authorise
from bot.discord_app.replies.offered_files import offered_files
from bot.discord_app.replies.quoted_messages import quoted
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError, DatabaseUnavailable, Hint

log = structlog.get_logger(__name__)

_MAX_TRIED = 3
"""Files of a message that are looked into for a card."""
_MAX_READING = 2
"""Cards that are read at a time: a large one takes some 50 MB while it is."""
_SUGGEST_TIMEOUT = 2.0
_MAX_SUGGESTIONS = 25
_SUFFIXES = (".png", ".apng", ".json", ".charx", ".zip")
_NO_FILE = "This message has no file that could be a character card. I read cards as PNG, JSON and CHARX."


class Cards(FeatureCog):
    """Imports and exports of character cards."""

    def __init__(self, bot: commands.Bot, context: CommandContext, api: MessageApi) -> None:
        super().__init__(context)
        self._bot = bot
        self._api = api
        self._pending = PendingCards()
        self._reading = asyncio.Semaphore(_MAX_READING)
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
            self._authorise(interaction, own=own)
            if await defer(interaction, ephemeral=True):
                await self._preview(
                    interaction, offered_files([file]), own=own, guild=not own, name=name, replace=replace
                )

        @app_commands.command(name="export", description=f"Get one of {whose} as a character card.")
        @app_commands.describe(name="Which one", format="png: a picture with the card in it. json: the card alone")
        async def export_card(interaction: Interaction, name: str, format: Literal["png", "json"] = "png") -> None:
            self._authorise(interaction, own=own)
            if await defer(interaction, ephemeral=True):
                await self._export(interaction, name, format, own=own)

        @export_card.autocomplete("name")
        async def suggest(interaction: Interaction, typed: str) -> list[app_commands.Choice[str]]:
            return await self._suggest(interaction, typed, own=own)

        return [import_card, export_card]

    async def import_from_message(self, interaction: Interaction, message: discord.Message) -> None:
        """Look for a card among the files of a message."""
        me, caller = self._bot.user, caller_of(interaction)
        files = quoted(message, bot_id=me.id if me else 0).files
        likely = [file for file in files if file.filename.lower().endswith(_SUFFIXES)]
        if not likely:
            raise Hint(_NO_FILE)
        if await defer(interaction, ephemeral=True):
            await self._preview(interaction, likely[:_MAX_TRIED], own=True, guild=_may_import_for_guild(caller))

    async def _preview(
        self,
        interaction: Interaction,
        offers: Sequence[OfferedFile],
        *,
        own: bool,
        guild: bool,
        name: str = "",
        replace: bool = False,
    ) -> None:
        key = dialog_key(caller_of(interaction))
        imported = await self._read(offers)
        cards = self.context.personas.cards
        if own != guild:  # with two libraries to choose from, the name is checked in the one that is chosen
            await cards.free_name(key, imported.card, own=own, name=name, replace=replace)
        picture = await self._portrait(imported)
        size, refusal = None, None
        try:
            size = await cards.size(imported.card)
        except BotError as too_long:
            refusal = too_long
        text = preview_text(imported, preview(imported, has_picture=bool(picture)), size, refusal)
        pending = PendingCard(
            guild_id=key.guild_id,
            json=write(dict(imported.card.raw)),
            char=imported.card.char,
            greetings=imported.card.greetings,
            picture=picture,
            user=clean_name(caller_of(interaction).name),
            name=name,
            replace=replace,
            text=text,
            greeting=_first_greeting(imported),
            own=own,
            guild=guild,
        )
        if refusal is None:
            self._pending.keep(interaction.user.id, interaction.id, pending)
        await answer(self._api, interaction, text, preview_components(pending, interaction.id, fits=refusal is None))

    async def _read(self, offers: Sequence[OfferedFile]) -> ImportedCard:
        """The first of these files that is a card. Raises what the first one was refused for."""
        first_refusal: BotError | None = None
        for offer in offers:
            try:
                async with self._reading:
                    return await asyncio.to_thread(read_file, await self.context.chat.file_reader.load(offer))
            except FileRefused as refused:
                refusal: BotError = Hint(refused.reason_text)
            except BotError as refused:
                refusal = refused
            first_refusal = first_refusal or refusal
        raise first_refusal or Hint(_NO_FILE)

    async def _portrait(self, imported: ImportedCard) -> bytes:
        """The card's picture as it is kept; none if it cannot be opened, which the preview then does not name."""
        if not imported.picture:
            return b""
        try:
            return await self.context.chat.file_reader.portrait(imported.picture)
        except FileRefused as refused:
            log.info("the picture of a card is not kept", reason=refused.reason_text)
            return b""

    async def _own_pressed(self, interaction: Interaction, argument: str) -> None:
        await self._pressed(interaction, argument, own=True)

    async def _guild_pressed(self, interaction: Interaction, argument: str) -> None:
        await self._pressed(interaction, argument, own=False)

    async def _pressed(self, interaction: Interaction, argument: str, *, own: bool) -> None:
        """`argument`: what to do, and the number of the card."""
        word, _, card_number = argument.partition(":")
        if word not in {"import", "cancel", "greeting"}:
            raise OldButton()
        user_id, key, card_id = interaction.user.id, dialog_key(caller_of(interaction)), number(card_number)
        if not await begin(interaction):
            return
        pending = self._pending.find(user_id, card_id, key.guild_id)
        if word == "cancel":
            self._pending.forget(user_id, card_id)
            await answer(self._api, interaction, CANCELLED)
        elif pending is None or (word == "import" and not (pending.own if own else pending.guild)):
            await answer(self._api, interaction, TOO_LATE)
        elif word == "greeting":
            pending = changed(pending, greeting=_chosen(interaction, pending))
            self._pending.keep(user_id, card_id, pending)
            await answer(self._api, interaction, pending.text, preview_components(pending, card_id, fits=True))
        else:
            await self._store(interaction, card_id, pending, own=own)

    async def _store(self, interaction: Interaction, card_id: int, pending: PendingCard, *, own: bool) -> None:
        key, cards, user_id = dialog_key(caller_of(interaction)), self.context.personas.cards, interaction.user.id
        self._pending.forget(user_id, card_id)  # a second press of the button finds nothing to import
        try:
            card = await asyncio.to_thread(pending.card)
            name = await cards.free_name(key, card, own=own, name=pending.name, replace=pending.replace)
            stored = await cards.store(
                key,
                card,
                own=own,
                name=name,
                picture=pending.picture,
                greeting=pending.greeting,
                replace=pending.replace,
                actor_id=user_id,
            )
        except BotError as refusal:  # the card stays: a name may become free, and the database come back
            self._pending.keep(user_id, card_id, pending)
            text = f"{pending.text}\n\n**Not imported:** {refusal.user_message}"
            await answer(self._api, interaction, text, preview_components(pending, card_id, fits=True))
            if isinstance(refusal, DatabaseUnavailable):
                log.warning("a card was not stored", error_id=refusal.error_id, reason=refusal.reason)
            return
        await answer(self._api, interaction, imported_text(stored.name, own=own))
        if not own and stored.active_version > 1:
            await announce_edit(self.context, interaction, stored)

    async def _export(self, interaction: Interaction, name: str, form: Literal["png", "json"], *, own: bool) -> None:
        key, personas = dialog_key(caller_of(interaction)), self.context.personas
        found = await personas.library.named(key, name, own=own)
        card = await personas.cards.export(key, found, own=own, form=form, max_bytes=interaction.filesize_limit)
        file = discord.File(io.BytesIO(card.data), card.name)
        await interaction.followup.send(file=file, ephemeral=True, allowed_mentions=NO_MENTIONS)

    async def _suggest(self, interaction: Interaction, typed: str, *, own: bool) -> list[app_commands.Choice[str]]:
        """Names that contain what was typed; none rather than late ones."""
        key = dialog_key(caller_of(interaction))
        try:
            self._authorise(interaction, own=own)
            async with asyncio.timeout(_SUGGEST_TIMEOUT):
                names = await self.context.personas.library.names(key, own=own, typed=typed, limit=_MAX_SUGGESTIONS)
        except (TimeoutError, BotError):
            return []
        return [app_commands.Choice(name=each, value=each) for each in names]

    def _authorise(self, interaction: Interaction, *, own: bool) -> None:
        authorise(caller_of(interaction), Action.CARD if own else Action.GUILD_CARD, None)


def _may_import_for_guild(caller: Caller) -> bool:
    try:
        authorise(caller, Action.GUILD_CARD, None)
    except NotAllowed:
        return False
    return True


def _first_greeting(imported: ImportedCard) -> int:
    """The greeting that the card chooses, else the first that says something."""
    card = imported.card
    if card.chosen_greeting:
        return card.greeting
    return next((index for index, text in enumerate(card.greetings) if text), 0)


def _chosen(interaction: Interaction, pending: PendingCard) -> int:
    values = interaction.data.get("values") if interaction.data else None
    value = str(values[0]) if isinstance(values, list) and values else ""
    index = number(value)
    if index >= len(pending.greetings):
        raise OldButton()
    return index
