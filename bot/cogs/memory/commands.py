"""/memory: what is remembered of the member who asks, for them alone. They read it, add to it, change it, forget it.

The pages have ◀ ▶ under them, served by their custom ids; whose notes they show is decided by who presses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import discord
from discord import app_commands
from discord.ui import Label, Modal, TextInput

from bot.cogs.dialogs.answers import MAX_SUGGESTIONS, OldButton, answer, begin, in_time, number
from bot.cogs.dialogs.buttons import arrows, button, row
from bot.cogs.memory import text
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise_memory, authorise_shared
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from bot.memory.cleaning import MAX_FACT
from bot.memory.service import MemoryService
from models.types import DialogKey, MemoryFact

_FIELD = "note"


class Memory(FeatureCog):
    """The commands for a member's notes."""

    memory = app_commands.Group(name="memory", description="What I remember about you beyond our conversation")

    def __init__(self, context: CommandContext, api: MessageApi, memory: MemoryService) -> None:
        super().__init__(context)
        self._api = api
        self._memory = memory

    @memory.command(name="on", description="Let me remember what you tell me about yourself, in this place.")
    async def on(self, interaction: Interaction) -> None:
        """/memory on."""
        if await defer(interaction, ephemeral=True):
            key = await self._allowed(interaction)
            await self._memory.switch(key, on=True)
            place = text.place_name(key.guild_id)
            await answer(self._api, interaction, _(text.SWITCHED_ON).format(place=place))

    @memory.command(name="off", description="Stop that: I take no more notes about you, and use none.")
    async def off(self, interaction: Interaction) -> None:
        """/memory off. Always allowed: it concerns nobody else."""
        if await defer(interaction, ephemeral=True):
            key = _key(interaction)
            await self._memory.switch(key, on=False)
            remembered = await self._memory.of(key)
            await answer(self._api, interaction, text.switched_off(len(remembered.facts)))

    @memory.command(name="show", description="Show what I remember about you, to you alone.")
    async def show(self, interaction: Interaction) -> None:
        """/memory show."""
        if await begin(interaction):
            await self._show(interaction, 0)

    @memory.command(name="add", description="Tell me something to remember about you.")
    @app_commands.describe(
        note="One sentence, such as: I am allergic to nuts",
        everywhere="Also for conversations that everyone in a channel shares (default: only for those with you alone)",
    )
    async def add(
        self, interaction: Interaction, note: app_commands.Range[str, 1, MAX_FACT], everywhere: bool = False
    ) -> None:
        """/memory add."""
        if not await defer(interaction, ephemeral=True):
            return
        key = await self._allowed(interaction)
        kept = await self._memory.add(key, note, everywhere=everywhere)
        said = _("I remember: {note}").format(note=text.shown(kept))
        if not (await self._memory.of(key)).wanted:
            said += " " + _("I use it once you have switched memory on with `/memory on`.")
        if not everywhere and (await self._dialog(interaction)).shared:
            said += f"\n{_(text.NOT_WHERE_SHARED)}"
        await answer(self._api, interaction, said)

    @memory.command(name="edit", description="Change one of my notes about you.")
    @app_commands.describe(note="Which note")
    async def edit(self, interaction: Interaction, note: str) -> None:
        """/memory edit: open a form. A modal must be the first response."""
        async with in_time():
            fact = await self._chosen(interaction, note)
        await interaction.response.send_modal(_form(fact))

    @memory.command(name="forget", description="Forget one of my notes about you, or all of them.")
    @app_commands.describe(note="Which note", everything="All notes about you here, and summaries")
    async def forget(self, interaction: Interaction, note: str | None = None, everything: bool = False) -> None:
        """/memory forget."""
        if not await defer(interaction, ephemeral=True):
            return
        if everything:
            question = _("Shall I forget all that I remember about you in {place}?")
            question = question.format(place=text.place_name(_key(interaction).guild_id))
            confirm = row(button(_("Forget everything"), "memory:all", danger=True))
            await answer(self._api, interaction, question, confirm)
            return
        if note is None:
            raise BotError(_("Please choose a note, or `everything`."))
        fact = await self._chosen(interaction, note)
        await self._memory.forget(_key(interaction), fact.fact_id)
        await answer(self._api, interaction, _("I have forgotten: {note}").format(note=text.shown(fact.text)))

    @edit.autocomplete("note")
    @forget.autocomplete("note")
    async def _suggestions(self, interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
        """The member's own notes, those that contain what they have typed; none if the database is slow."""
        try:
            async with in_time():
                facts = (await self._memory.of(_key(interaction))).facts
        except BotError:
            return []
        wanted = current.casefold()
        return [
            app_commands.Choice(name=fact.text[:100], value=str(fact.fact_id))
            for fact in facts
            if wanted in fact.text.casefold() or current == str(fact.fact_id)
        ][:MAX_SUGGESTIONS]

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """◀ ▶ and the buttons under the notes, and the form of an edit."""
        return {Action.MEMORY.value: self._pressed}

    async def _pressed(self, interaction: Interaction, argument: str) -> None:
        what, _colon, rest = argument.partition(":")
        if what == "edit":
            await self._submitted(interaction, number(rest))
        elif what == "page":
            page = number(rest)
            if await begin(interaction):
                await self._show(interaction, page)
        elif what == "all":
            if await begin(interaction):
                count = await self._memory.forget_all(_key(interaction))
                done = _(text.NOTHING)
                if count:
                    done = ngettext(
                        "I have forgotten it: {number} note.", "I have forgotten it: {number} notes.", count
                    )
                    done = done.format(number=count)
                await answer(self._api, interaction, done)
        elif what == "summary":
            if await begin(interaction):
                key = await self._dialog(interaction)
                authorise_shared(caller_of(interaction), key, "forget the summary of")
                await self._memory.forget_summary(key)
                await self._show(interaction, 0)
        else:
            raise OldButton()

    async def _submitted(self, interaction: Interaction, fact_id: int) -> None:
        value = next(iter(submitted_values(interaction.data).get(_FIELD, ())), "")
        if await defer(interaction, ephemeral=True):
            kept = await self._memory.edit(_key(interaction), fact_id, value)
            said = _(text.NO_SUCH_NOTE)
            if kept is not None:
                said = _("Now: {note}").format(note=text.shown(kept))
            await answer(self._api, interaction, said)

    async def _show(self, interaction: Interaction, page: int) -> None:
        key = await self._dialog(interaction)
        remembered = await self._memory.of(key)
        lines = await self._state(interaction, remembered.wanted)
        links = await self._memory.links(key, remembered.facts)
        caller = caller_of(interaction)
        summary = remembered.summary if caller.reads_history or not key.shared else None
        found = text.pages(remembered.facts, summary, links, shared=key.shared)
        if not found:
            await answer(self._api, interaction, "\n".join([_(text.NOTHING), *lines]))
            return
        page = min(page, len(found) - 1)
        content = [text.heading(len(remembered.facts), key.guild_id), *found[page]]
        footer = ""
        if len(found) > 1:
            footer = _("-# Page {number} of {total}").format(number=page + 1, total=len(found))
        buttons: list[dict[str, Any]] = arrows(
            f"memory:page:{page - 1}" if page else None, f"memory:page:{page + 1}" if page + 1 < len(found) else None
        )
        if summary is not None and page == 0 and (caller.manages_guild or not key.shared):
            buttons += row(button(_("Forget the summary"), "memory:summary"))
        await answer(self._api, interaction, "\n".join(filter(None, [*content, footer, *lines])), buttons)

    async def _state(self, interaction: Interaction, wanted: bool | None) -> list[str]:
        """Why nothing is remembered or used now; nothing to say if it is."""
        caller = caller_of(interaction)
        try:
            authorise_memory(
                caller, await self.context.guild_settings.get(caller.guild_id), available=self._memory.available
            )
        except BotError as refusal:
            return [f"-# {refusal.user_message}"]
        off = _("-# Memory is off for you here: `/memory on` lets me take notes, and use these.")
        return [] if wanted else [off]

    async def _allowed(self, interaction: Interaction) -> DialogKey:
        """The member's key, where they may let the bot remember. Raises NotAllowed."""
        caller = caller_of(interaction)
        settings = await self.context.guild_settings.get(caller.guild_id)
        authorise_memory(caller, settings, available=self._memory.available)
        return _key(interaction)

    async def _dialog(self, interaction: Interaction) -> DialogKey:
        """The key of the member's dialog here."""
        return await self.context.current_dialog_key(interaction)

    async def _chosen(self, interaction: Interaction, note: str) -> MemoryFact:
        """The note of a suggestion. Raises BotError for anything else."""
        given = note.strip()
        known = given.isascii() and given.isdecimal() and len(given) < 20
        fact = await self._memory.fact(_key(interaction), int(given)) if known else None
        if fact is None:
            raise BotError(_(text.NO_SUCH_NOTE))
        return fact


def _key(interaction: Interaction) -> DialogKey:
    """Who the notes are about, and in which guild."""
    return dialog_key(caller_of(interaction))


def _form(fact: MemoryFact) -> Modal:
    """The form with a note to be changed."""
    modal = Modal(title=_("Change this note"), custom_id=f"{Action.MEMORY.value}:edit:{fact.fact_id}", timeout=None)
    field: TextInput[Modal] = TextInput(
        custom_id=_FIELD, style=discord.TextStyle.paragraph, default=fact.text, max_length=MAX_FACT
    )
    modal.add_item(Label(text=_("What I remember about you"), description=_("One sentence"), component=field))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal
