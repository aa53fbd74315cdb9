"""The limits and filters of a guild as its panel shows them: entries as in `guild_entries`. Pure functions.

Of filtered words only the number is shown, never a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bot.cogs.config.changes import RESETS
from bot.cogs.filters.text import threshold_texts
from bot.cogs.settings_panel.entries import Entry, Listed, Number, Switch
from bot.cogs.settings_panel.field_entries import GuildEntry, field_entry, listed_entry, not_here
from bot.guilds.settings.limits import OF_ROLES, OPERATORS, bounds, shown_name
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from bot.settings import Settings
from models.types import GuildSettings, RolePolicy


def limit_entries(guild: GuildSettings, operator: Settings) -> Iterable[GuildEntry]:
    """What a member may ask for, what roles have instead, and what all members together may."""
    yield from (_limit(field, operator, "limits") for field in OF_ROLES)
    yield Entry(
        "role_limits",
        "limits",
        _("Roles with limits of their own"),
        _("`/config limits role` changes them for one role"),
        Listed(tuple(_role_line(role) for role in guild.roles if _has_limits(role)), _("none")),
        lambda old: tuple((role.role_id, *_numbers(role).values()) for role in old.roles if _has_limits(role)),
        lambda old, value: not_here(value),
        RESETS["role_limits"],
    )
    yield from (_limit(field, operator, "together") for field in OPERATORS if field not in OF_ROLES)


def filter_entries(guild: GuildSettings, operator: Settings) -> Iterable[GuildEntry]:
    """What is kept out of messages and answers."""
    count = len(guild.filter_words)
    words = ngettext("**{number} word**", "**{number} words**", count).format(number=count)
    yield listed_entry(
        "filter_words",
        "safety",
        _("Words that are kept out"),
        _("`/config filter words` adds and removes them, and shows them to you"),
        Listed((words,) if count else (), _("none")),
    )
    yield field_entry(
        "moderation",
        "safety",
        _("Moderation"),
        _("It checks messages and answers; an answer is shown once it has passed"),
        Switch(
            default=False,
            unavailable="" if operator.moderation_url is not None else _("the owner of this bot offers no moderation"),
        ),
    )
    yield listed_entry(
        "moderation_thresholds",
        "safety",
        _("From which scores moderation keeps out"),
        _("`/config filter threshold` changes it for one category"),
        Listed(tuple(threshold_texts(guild)), _("its own judgement")),
    )


def _limit(field: str, operator: Settings, page: str) -> GuildEntry:
    """The entry of a number: the operator's is its default and its maximum."""
    most = getattr(operator, OPERATORS[field])
    least, possible = bounds(field)
    name = shown_name(field)
    title, about = _texts()[name]
    number = Number(most, least, possible if most is None else min(most, possible))
    return field_entry(name, page, title, about, number, field=field)


def _texts() -> Mapping[str, tuple[str, str]]:
    """Title and explanation of each limit."""
    day = _("Counted from 00:00 UTC on")
    tokens = _("Questions and answers together, from 00:00 UTC on")
    return {
        "minute_messages": (_("Messages of a member in one minute"), _("They may come at once")),
        "running_replies": (_("Answers to a member at once"), _("More messages wait for their turn")),
        "daily_messages": (_("Messages of a member in one day"), day),
        "daily_tokens": (_("Tokens of a member in one day"), tokens),
        "guild_minute_messages": (_("Messages of all members in one minute"), _("They may come at once")),
        "guild_running_replies": (_("Answers to all members at once"), _("More messages wait for their turn")),
        "guild_daily_messages": (_("Messages of all members in one day"), day),
        "guild_daily_tokens": (_("Tokens of all members in one day"), tokens),
    }


def _numbers(role: RolePolicy) -> Mapping[str, int | None]:
    return {name: getattr(role, name) for name in OF_ROLES}


def _has_limits(role: RolePolicy) -> bool:
    return any(number is not None for number in _numbers(role).values())


def _role_line(role: RolePolicy) -> str:
    numbers = ", ".join(
        f"`{shown_name(name)}` {number:,}" for name, number in _numbers(role).items() if number is not None
    )
    return f"<@&{role.role_id}> {numbers}"
