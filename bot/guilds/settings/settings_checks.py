"""Which settings a guild may choose: within the operator's limits, with lists of a bounded length. Pure functions."""

from __future__ import annotations

from datetime import timedelta

from bot.errors import AboveLimit, BotError, Hint
from bot.guilds.settings.limits import limits_above
from bot.i18n.language import gettext as _
from bot.safety.words import MAX_WORDS
from bot.settings import Settings
from bot.settings.listed_models import DEFAULT_MODEL, MAX_NAME_CHARS
from bot.text import duration_text
from models.types import GuildSettings

MAX_LISTED = 100
"""Channels, and roles, on the lists of one guild."""
SHORTEST_IDLE_TIME = timedelta(minutes=10)
"""The shortest time after which a guild may have idle conversations end; the longest is the operator's."""
_LIMITED = ("max_chat_logs", "max_reply_tokens", "retention_days")
"""For these, the operator's setting of the same name is the guild's default and maximum."""


def check_change(settings: Settings, before: GuildSettings, after: GuildSettings) -> None:
    """Raise AboveLimit or BotError if a guild with the settings `before` may not have those of `after`.

    Only what changes is checked: a value above a limit that was lowered since must not prevent another change.
    """
    for name in _LIMITED:
        value, limit = getattr(after, name), getattr(settings, name)
        if value is not None and value > limit and value != getattr(before, name):
            raise AboveLimit(name, limit, value)
    if after.session_ttl is not None and after.session_ttl != before.session_ttl:
        _check_idle_time(after.session_ttl, settings.session_ttl)
    for name, limit, value in limits_above(settings, before, after):
        raise AboveLimit(name, limit, value)
    if after.moderation and not before.moderation and settings.moderation_url is None:
        raise Hint(_("The owner of this bot offers no moderation."))
    if after.model is not None and after.model != before.model and not offers_model(settings, after.model):
        raise Hint(no_such_model(settings, after.model))
    if len(after.filter_words) > MAX_WORDS:
        raise BotError(_("There is room for {number} filtered words.").format(number=MAX_WORDS))
    lists = (after.channels, after.roles, after.channel_scopes, after.locked_channels)
    if max(map(len, lists)) > MAX_LISTED:
        text = _("There is room for {number} channels or {number} roles on each of these lists.")
        raise BotError(text.format(number=MAX_LISTED))


def offers_model(settings: Settings, name: str) -> bool:
    """Whether the operator lists a model of this name."""
    return any(model.name == name for model in settings.listed_models)


def no_such_model(settings: Settings, name: str) -> str:
    """What is said of a model that is not listed. `name`: from a command or a file."""
    listed = ", ".join(f"`{model.name}`" for model in settings.listed_models)
    if not listed:
        return _("The owner of this bot offers one model only, so there is nothing to choose.")
    shown = "".join(char for char in name if char.isprintable() and char != "`")[:MAX_NAME_CHARS]
    return _("The owner of this bot offers no model `{name}`. There are: {models}.").format(
        name=shown or "?", models=f"`{DEFAULT_MODEL}`, {listed}"
    )


def _check_idle_time(chosen: timedelta, longest: timedelta) -> None:
    shortest = min(SHORTEST_IDLE_TIME, longest)
    if not shortest <= chosen <= longest:
        raise BotError(
            _("`idle_time` can be from {shortest} to {longest}. Nothing was changed.").format(
                shortest=duration_text(shortest), longest=duration_text(longest)
            )
        )
