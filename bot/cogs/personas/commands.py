"""/persona, the guild's persona, for members with Manage Server; /me persona, a member's own, for everyone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from discord import app_commands

from bot.cogs.personas.modal import persona_modal, submitted_fields
from bot.cogs.personas.text import (
    CLEARED,
    COMMANDS,
    KEPT,
    MODAL_TITLES,
    NOT_SET,
    NOW,
    SHOWN,
    Level,
    name_of,
    version_line,
)
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions import BY_GUILDS, IN_GUILDS, MANAGE_GUILD
from bot.errors import BotError, DatabaseUnavailable
from models.types import PersonaText

_PREFILL_TIMEOUT = 1.0  # seconds, of the 3 in which a modal must be opened
_CUSTOM_IDS: Mapping[Level, str] = {"guild": "persona:set", "member": "me:persona"}


class PersonaCommands(app_commands.Group):
    """The five commands for the personas of one level, guild or member. The cog sets `context`."""

    level: Level
    context: CommandContext

    @app_commands.command(name="set", description="Say who I am. Without a prompt, a form opens.")
    @app_commands.describe(prompt="What I am told before every conversation: “You are …”", name="A short name for it")
    async def set_persona(self, interaction: Interaction, prompt: str | None = None, name: str | None = None) -> None:
        """Store the prompt, or open a modal to write it in."""
        if prompt is None:
            modal = persona_modal(
                _CUSTOM_IDS[self.level],
                MODAL_TITLES[self.level],
                await self._current(interaction),
                max_chars=self.context.settings.max_persona_chars,
                name=name or "",
            )
            await interaction.response.send_modal(modal)
        elif await defer(interaction, ephemeral=True):
            await self._store(interaction, prompt, name or "")

    @app_commands.command(name="show", description="Show who I am.")
    async def show(self, interaction: Interaction) -> None:
        """Show the persona of this level, or if there is none, the one that applies instead."""
        if not await defer(interaction, ephemeral=True):
            return
        key = dialog_key(caller_of(interaction))
        persona = await self.context.personas.get(key, self.level)
        if persona is None:
            effective = await self.context.personas.show(key)
            text = f"{NOT_SET[self.level]} I am told this:\n\n{effective.prompt}"
        else:
            text = f"{SHOWN[self.level].format(name=name_of(persona))}\n\n{persona.prompt}"
        await self.context.respond(interaction, text)

    @app_commands.command(name="clear", description="Go back to who I was before this persona was set.")
    async def clear(self, interaction: Interaction) -> None:
        """Remove the persona of this level."""
        if await defer(interaction, ephemeral=True):
            existed = await self.context.personas.clear(dialog_key(caller_of(interaction)), self.level)
            await self.context.respond(interaction, (CLEARED if existed else NOT_SET)[self.level])

    @app_commands.command(name="versions", description="Show what this persona has been before.")
    async def versions(self, interaction: Interaction) -> None:
        """List the versions that are kept."""
        if not await defer(interaction, ephemeral=True):
            return
        key, own = dialog_key(caller_of(interaction)), self.level == "member"
        entry = await self.context.personas.entry_at(key, self.level)
        library = self.context.personas.library
        versions = () if entry is None else await library.versions(key, entry.persona_id, own=own)
        hint = f"`{COMMANDS[self.level]} rollback` puts one of them back in force."
        lines = [version_line(version) for version in versions]
        await self.context.respond(interaction, "\n".join([*lines, hint]) if lines else NOT_SET[self.level])

    @app_commands.command(name="rollback", description="Be again who I was in an earlier version of this persona.")
    @app_commands.describe(version="Its number, as in the list of versions")
    async def rollback(self, interaction: Interaction, version: app_commands.Range[int, 1, 1_000_000_000]) -> None:
        """Restore an earlier version."""
        if not await defer(interaction, ephemeral=True):
            return
        key, own, by = dialog_key(caller_of(interaction)), self.level == "member", interaction.user.id
        personas, persona = self.context.personas, None
        entry = await personas.entry_at(key, self.level)
        if entry is not None:
            back = await personas.library.rollback(key, entry.persona_id, version, own=own, actor_id=by)
            if back is not None and await personas.assign(key, self.level, entry.persona_id, actor_id=by):
                persona = await personas.get(key, self.level)
        if persona is None:
            raise BotError(f"I have no version {version} of it. `{COMMANDS[self.level]} versions` lists what I have.")
        await self.context.respond(interaction, f"{NOW[self.level].format(name=name_of(persona))} {KEPT}")

    async def modal_submitted(self, interaction: Interaction, argument: str) -> None:
        """Store the fields of the modal. `argument` is a fixed part of its custom id and not used."""
        if await defer(interaction, ephemeral=True):
            fields = submitted_fields(interaction)
            await self._store(interaction, fields.get("prompt", ""), fields.get("name", ""))

    async def _store(self, interaction: Interaction, prompt: str, name: str) -> None:
        saved = await self.context.personas.set(
            dialog_key(caller_of(interaction)), self.level, prompt, name=name, author_id=interaction.user.id
        )
        persona = saved.persona
        await self.context.respond(interaction, f"{NOW[self.level].format(name=name_of(persona))} {KEPT}")

    async def _current(self, interaction: Interaction) -> PersonaText | None:
        """The persona that the modal is prefilled with; None if the database is slow, because the modal cannot wait."""
        try:
            async with asyncio.timeout(_PREFILL_TIMEOUT):
                return await self.context.personas.get(dialog_key(caller_of(interaction)), self.level)
        except (TimeoutError, DatabaseUnavailable):
            return None


class GuildPersonaCommands(PersonaCommands):
    """/persona."""

    level = "guild"


class OwnPersonaCommands(PersonaCommands):
    """/me persona."""

    level = "member"


class Persona(FeatureCog):
    """Personas. Discord hides /persona from members without Manage Server by default."""

    guild_persona = GuildPersonaCommands(
        name="persona",
        description="Who I am in this guild (for members with Manage Server)",
        default_permissions=MANAGE_GUILD,
        guild_only=True,
        allowed_contexts=IN_GUILDS,
        allowed_installs=BY_GUILDS,
    )
    me = app_commands.Group(name="me", description="What concerns only you")
    own_persona = OwnPersonaCommands(name="persona", description="Who I am for you, here", parent=me)

    def __init__(self, context: CommandContext) -> None:
        super().__init__(context)
        self.guild_persona.context = self.own_persona.context = context

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The modals of both levels."""
        return {"persona": self.guild_persona.modal_submitted, "me": self.own_persona.modal_submitted}
