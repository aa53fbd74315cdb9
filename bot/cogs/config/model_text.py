"""The models that a guild can choose, and the one that answers in it, as they are shown. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from discord.app_commands import Choice

from bot.cogs.settings_panel.entries import Listed, Option, Options
from bot.guilds.settings.settings_checks import no_such_model, offers_model
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.settings import Settings
from bot.settings.listed_models import DEFAULT_MODEL
from models.types import GuildSettings

MODEL_CHOSEN = N_("It answers from the next message on. Conversations go on with it.")
_MAX_LABEL = 100
"""Discord's limit of a suggestion."""


def suggested_models(settings: Settings, typed: str) -> list[Choice[str]]:
    """The models whose names contain what was typed, the default one first."""
    labels = ((name, f"{name} ({about})" if about else name) for name, about in _offered(settings))
    return [
        Choice(name=label[:_MAX_LABEL], value=name) for name, label in labels if typed.strip().lower() in label.lower()
    ]


def models_text(guild: GuildSettings, settings: Settings) -> str:
    """The model that answers, and all that can be chosen."""
    if not settings.listed_models and guild.model is None:
        return no_such_model(settings, "")
    offered = [f"- `{name}`" + (f" ({about})" if about else "") for name, about in _offered(settings)]
    return "\n".join([model_line(guild, settings), "", _("`/config model` can choose:"), *offered])


def model_line(guild: GuildSettings, settings: Settings) -> str:
    """The model that answers, and why if it is not the one that was chosen."""
    if guild.model is None:
        return _("`model` **{model}** (the default)").format(model=DEFAULT_MODEL)
    if offers_model(settings, guild.model):
        return _("`model` **{model}** (chosen)").format(model=guild.model)
    text = _("`model` **{default}** ({model} was chosen; the owner of this bot does not offer it any more)")
    return text.format(default=DEFAULT_MODEL, model=guild.model)


def model_control(guild: GuildSettings, settings: Settings) -> Options | Listed:
    """The menu of the panel. A model that was chosen and is not offered any more stands in it and says so."""
    if not settings.listed_models and guild.model is None:
        return Listed((), _("the only one of this bot"))
    options = [Option(name, name, about) for name, about in _offered(settings)]
    if guild.model is not None and not offers_model(settings, guild.model):
        label = _("{model}: not offered any more, so {default} answers").format(
            model=guild.model, default=DEFAULT_MODEL
        )
        options = [*options, Option(guild.model, label)]
    return Options(tuple(options), DEFAULT_MODEL)


def _offered(settings: Settings) -> Sequence[tuple[str, str]]:
    """Each model with how its servers call it, where the operator says so."""
    return [
        (DEFAULT_MODEL, settings.model_name or ""),
        *((model.name, model.model_id or "") for model in settings.listed_models),
    ]
