"""What a member decides for themselves, as their panel shows it: each can only make less of what applies here.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bot.cogs.settings_panel.entries import Control, Entry, Number, Options, Source, Switch
from bot.cogs.settings_panel.languages import AUTO, language_options
from bot.i18n.language import gettext as _
from bot.settings import Settings
from models.types import GuildSettings, MemberSettings


@dataclass(frozen=True, slots=True)
class OwnChoice:
    """What a member chose, and what applies to everybody in the same place."""

    own: MemberSettings
    guild: GuildSettings


OwnEntry = Entry[OwnChoice]


def own_source() -> Source:
    """Where a value of a member comes from."""
    return Source(
        default=_("the default here"),
        chosen=_("chosen by you"),
        limit=_("the most that is allowed here ({chosen} was chosen)"),
    )


def own_entries(choice: OwnChoice, operator: Settings) -> tuple[OwnEntry, ...]:
    """All settings of a member in one guild, or in direct messages."""
    most_logs = _most(operator.max_chat_logs, choice.guild.max_chat_logs)
    most_days = _most(operator.retention_days, choice.guild.retention_days)
    return (
        _entry(
            "max_chat_logs",
            _("Exchanges that I keep in mind"),
            _("You can choose fewer than apply here"),
            Number(most_logs, 0, most_logs),
            lambda own: own.max_chat_logs,
            lambda own, value: replace(own, max_chat_logs=value),
        ),
        _entry(
            "retention_days",
            _("Days that a conversation is kept after its end"),
            _("Your own conversations, and notes about you that I have not used for this long"),
            Number(most_days, 0, most_days),
            lambda own: own.retention_days,
            lambda own, value: replace(own, retention_days=value),
        ),
        _entry(
            "private",
            _("Only you see my answers to commands"),
            _("Not where a command says `private: False`, and not where you write a message to me"),
            Switch(default=False),
            lambda own: bool(own.private),
            lambda own, value: replace(own, private=value or None),
        ),
        _entry(
            "language",
            _("Language of what I say to you alone"),
            _("My own words, not the answers of the model"),
            Options(language_options(_("As your Discord")), AUTO),
            lambda own: own.locale or AUTO,
            lambda own, value: replace(own, locale=None if value in (AUTO, None) else value),
        ),
    )


def _most(operator: int, guild: int | None) -> int:
    return operator if guild is None else min(operator, guild)


def _entry(
    name: str,
    title: str,
    about: str,
    control: Control,
    read: Callable[[MemberSettings], Any],
    write: Callable[[MemberSettings, Any], MemberSettings],
) -> OwnEntry:
    """An entry whose value None is the default."""

    def written(choice: OwnChoice, value: Any) -> OwnChoice:
        return replace(choice, own=write(choice.own, value))

    return Entry(
        name,
        "own",
        title,
        about,
        control,
        lambda choice: read(choice.own),
        written,
        lambda choice: written(choice, None),
    )
