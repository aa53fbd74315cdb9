"""`/config model`: stores which of the listed models answers in a guild, or shows them."""

from __future__ import annotations

from dataclasses import replace

from bot.cogs.config.model_text import MODEL_CHOSEN, models_text
from bot.cogs.config.storing import store_change
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.i18n.language import gettext as _
from bot.settings import Settings
from bot.settings.listed_models import DEFAULT_MODEL


async def choose_model(context: CommandContext, interaction: Interaction, name: str | None) -> None:
    """Store the choice of a model, of which the operator lists one of this name. Without a name, show the choice."""
    settings = context.settings
    if name is None:
        if await defer(interaction, ephemeral=True):
            guild = await context.guild_settings.read(interaction.guild_id or 0)
            await context.respond(interaction, models_text(guild, settings))
        return
    chosen = _listed(name, settings)
    note = "" if chosen is None else _(MODEL_CHOSEN)
    await store_change(context, interaction, lambda old: replace(old, model=chosen), note)


def _listed(name: str, settings: Settings) -> str | None:
    """The model of this name, however it is capitalised; None for the default one. One that is not listed stays."""
    typed = name.strip()
    if typed.lower() == DEFAULT_MODEL:
        return None
    return next((model.name for model in settings.listed_models if model.name.lower() == typed.lower()), typed)
