"""Names of a library while somebody types one. The gate has checked that they may use the command."""

from __future__ import annotations

from discord.app_commands import Choice

from bot.cogs.dialogs.answers import MAX_SUGGESTIONS, in_time
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import Interaction
from bot.errors import BotError
from bot.guilds.persona_library import PersonaLibrary


async def suggested_names(
    library: PersonaLibrary, interaction: Interaction, typed: str, *, own: bool
) -> list[Choice[str]]:
    """The names that contain what was typed; none if the database is slow."""
    try:
        async with in_time():
            key = dialog_key(caller_of(interaction))
            names = await library.names(key, own=own, typed=typed, limit=MAX_SUGGESTIONS)
    except BotError:
        return []
    return [Choice(name=name, value=name) for name in names]
