"""A change of a guild's settings by a command: stored, and answered with the settings after it."""

from __future__ import annotations

from bot.cogs.config.text import settings_text
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.guilds.settings.settings_cache import Change
from bot.i18n.language import gettext as _


async def store_change(context: CommandContext, interaction: Interaction, change: Change, note: str = "") -> None:
    """Store a change and respond with all settings. `note`: what the change brings about."""
    if not await defer(interaction, ephemeral=True):
        return
    after = await context.guild_settings.change(interaction.guild_id or 0, change, actor_id=interaction.user.id)
    saved = " ".join(filter(None, (_("Saved."), note)))
    await context.respond(interaction, f"{saved}\n\n{settings_text(after, context.settings)}")
