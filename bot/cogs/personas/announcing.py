"""The line in a channel that says that somebody else answers there now: for everyone, not only for who changed it."""

from __future__ import annotations

import discord
import structlog

from bot.cogs.personas.text import bold
from bot.discord_app.caller import Caller, caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from bot.discord_app.permissions.own_persona import persona_scope
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.i18n.language import gettext as _
from bot.i18n.language import use_language
from models.types import PersonaInfo, PersonaLevelInfo

log = structlog.get_logger(__name__)


async def announce(context: CommandContext, interaction: Interaction, text: str) -> None:
    """Say it where the command was used, after its response, in the guild's language, if the bot may write there."""
    allowed = interaction.app_permissions
    in_thread = isinstance(interaction.channel, discord.Thread)
    if not (allowed.send_messages_in_threads if in_thread else allowed.send_messages):
        return
    with use_language(await context.languages.of_guild(interaction.guild_id or 0)):
        text = _(text)
    try:
        await interaction.followup.send(text, allowed_mentions=NO_MENTIONS, suppress_embeds=True)
    except DISCORD_ERRORS as error:
        log.warning("a change of the persona was not announced", error=describe_error(error))


async def narrowest_place(context: CommandContext, caller: Caller) -> PersonaLevelInfo | None:
    """The narrowest place around the caller that has a persona of the guild; None if no place has one."""
    settings = await context.guild_settings.get(caller.guild_id)
    levels = await context.personas.levels(dialog_key(caller), persona_scope(caller, settings))
    fitting = (each for each in levels if caller.age_restricted or not each.age_restricted)
    return next((each for each in fitting if each.level != "member"), None)


async def answers_here(context: CommandContext, interaction: Interaction, persona_id: int) -> bool:
    """Whether this persona of the guild is the one that answers where the interaction was made."""
    first = await narrowest_place(context, caller_of(interaction))
    return first is not None and first.persona_id == persona_id


async def announce_edit(context: CommandContext, interaction: Interaction, entry: PersonaInfo) -> None:
    """Say that a persona of the guild has another text, if it is the one that answers here."""
    if await answers_here(context, interaction, entry.persona_id):
        text = _("-# {name}, who answers here, was changed. Our conversations go on.")
        await announce(context, interaction, text.format(name=bold(entry.name)))
