"""/persona for those who manage a guild, /me persona for everybody: who the bot is, there or for oneself."""

from __future__ import annotations

import asyncio
from typing import Literal

from discord import Permissions, app_commands
from discord.utils import escape_markdown

from bot.cogs.persona_modal import fields, persona_modal
from bot.discord_app.context import ANYWHERE, IN_GUILDS, INSTALLED, CommandContext, Interaction, answer, key_of
from bot.discord_app.delivery import acknowledge
from bot.errors import BotError, DatabaseUnavailable
from models.types import PersonaText, PersonaVersionInfo

Level = Literal["guild", "member"]

_PREFILL_PATIENCE = 1.0  # of the 3 s in which a form must be shown
_TITLES = {"guild": "The persona of this guild", "member": "Your own persona for me"}
_SET = {
    "guild": "From the next message on I am {name} in this guild.",
    "member": "From now on I am {name} for you here.",
}
_KEPT = "Our conversations go on; /reset starts a new one."
_CLEARED = {"guild": "This guild's persona is gone.", "member": "Your own persona is gone."}
_NOT_SET = {"guild": "This guild has no persona of its own.", "member": "You have no persona of your own here."}
_COMMANDS = {"guild": "/persona", "member": "/me persona"}
_PREVIEW = 80  # characters of a version in the list
_SHOWN = {"guild": "In this guild I am {name}:", "member": "For you I am {name} here:"}


class PersonaCommands(app_commands.Group):
    """set, show and clear at one level, and its versions."""

    def __init__(self, parts: CommandContext, level: Level, description: str) -> None:
        super().__init__(name="persona", description=description)
        self._parts = parts
        self._level = level

    @app_commands.command(name="set", description="Say who I am. Without a prompt, a form opens.")
    @app_commands.describe(prompt="What I am told before every conversation: “You are …”", name="A short name for it")
    async def set_persona(self, interaction: Interaction, prompt: str | None = None, name: str | None = None) -> None:
        if prompt is None:
            current = await _current(self._parts, interaction, self._level)
            longest = self._parts.settings.max_persona_chars
            form = persona_modal(
                _custom_id(self._level), _TITLES[self._level], current, longest=longest, name=name or ""
            )
            await interaction.response.send_modal(form)
        elif await acknowledge(interaction, private=True):
            await _set(self._parts, interaction, self._level, prompt, name or "")

    @app_commands.command(name="show", description="Show who I am.")
    async def show(self, interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        found = await self._parts.personas.get(key_of(interaction), self._level)
        if found is None:
            used = await self._parts.personas.show(key_of(interaction))
            text = f"{_NOT_SET[self._level]} I am told this:\n\n{used.prompt}"
        else:
            text = f"{_SHOWN[self._level].format(name=_name(found))}\n\n{found.prompt}"
        await answer(self._parts, interaction, text)

    @app_commands.command(name="clear", description="Go back to who I was before this persona was set.")
    async def clear(self, interaction: Interaction) -> None:
        if await acknowledge(interaction, private=True):
            there = await self._parts.personas.clear(key_of(interaction), self._level)
            await answer(self._parts, interaction, (_CLEARED if there else _NOT_SET)[self._level])

    @app_commands.command(name="versions", description="Show what this persona has been before.")
    async def versions(self, interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        kept = await self._parts.personas.versions(key_of(interaction), self._level)
        hint = f"`{_COMMANDS[self._level]} rollback` puts one of them back in force."
        lines = [_line(version) for version in kept]
        await answer(self._parts, interaction, "\n".join([*lines, hint]) if lines else _NOT_SET[self._level])

    @app_commands.command(name="rollback", description="Be again who I was in an earlier version of this persona.")
    @app_commands.describe(version="Its number, as in the list of versions")
    async def rollback(self, interaction: Interaction, version: app_commands.Range[int, 1, 1_000_000_000]) -> None:
        if not await acknowledge(interaction, private=True):
            return
        found = await self._parts.personas.rollback(key_of(interaction), self._level, version)
        if found is None:
            raise BotError(f"I have no version {version} of it. `{_COMMANDS[self._level]} versions` lists what I have.")
        await answer(self._parts, interaction, f"{_SET[self._level].format(name=_name(found))} {_KEPT}")


def guild_persona(parts: CommandContext) -> app_commands.Group:
    """/persona, hidden from those without Manage Server unless the guild decides otherwise; see also `_gate`."""
    group = PersonaCommands(parts, "guild", "Who I am in this guild (for members with Manage Server)")
    group.default_permissions = Permissions(manage_guild=True)
    group.guild_only = True
    group.allowed_contexts = IN_GUILDS
    group.allowed_installs = INSTALLED
    return group


def own_persona(parts: CommandContext) -> app_commands.Group:
    """/me persona."""
    me = app_commands.Group(name="me", description="What concerns only you")
    me.add_command(PersonaCommands(parts, "member", "Who I am for you, here"))
    me.allowed_contexts = ANYWHERE
    me.allowed_installs = INSTALLED
    return me


async def submitted(parts: CommandContext, interaction: Interaction, level: Level) -> None:
    """Serve the form."""
    if await acknowledge(interaction, private=True):
        given = fields(interaction)
        await _set(parts, interaction, level, given.get("prompt", ""), given.get("name", ""))


async def _set(parts: CommandContext, interaction: Interaction, level: Level, prompt: str, name: str) -> None:
    persona = await parts.personas.set(key_of(interaction), level, prompt, name=name, author_id=interaction.user.id)
    await answer(parts, interaction, f"{_SET[level].format(name=_name(persona))} {_KEPT}")


async def _current(parts: CommandContext, interaction: Interaction, level: Level) -> PersonaText | None:
    """What the form begins with. A slow database costs the convenience, not the form."""
    try:
        async with asyncio.timeout(_PREFILL_PATIENCE):
            return await parts.personas.get(key_of(interaction), level)
    except (TimeoutError, DatabaseUnavailable):
        return None


def _line(version: PersonaVersionInfo) -> str:
    """One version in the list: its number, its date, its name, and how it begins."""
    text = " ".join(version.prompt.split())
    begins = escape_markdown(text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}…")
    name = f" · **{escape_markdown(version.name)}**" if version.name else ""
    now = " · **in force**" if version.active else ""
    return f"{version.version}\\. {version.created_at:%Y-%m-%d %H:%M} UTC{name}{now} · {begins}"


def _custom_id(level: Level) -> str:
    return "persona:set" if level == "guild" else "me:persona"


def _name(persona: PersonaText) -> str:
    return f"**{escape_markdown(persona.name)}**" if persona.name else "this persona"
