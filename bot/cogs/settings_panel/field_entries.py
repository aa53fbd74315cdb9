"""Entries for settings that are one field of a guild's settings: how it is read, written and reset. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bot.cogs.settings_panel.entries import Control, Entry, Listed
from bot.errors import BotError
from bot.i18n.language import gettext as _
from models.types import GuildSettings

GuildEntry = Entry[GuildSettings]
_DEFAULTS = GuildSettings()


def field_entry(
    name: str,
    page: str,
    title: str,
    about: str,
    control: Control,
    *,
    field: str = "",
    stored: Callable[[Any], Any] = lambda value: value,
    note: Callable[[Any], str] = lambda value: "",
) -> GuildEntry:
    """A setting that is one field, called `field` or as the setting is. `stored`: what the field has of a choice."""
    own = field or name

    def read(old: GuildSettings) -> Any:
        return getattr(old, own)

    def write(old: GuildSettings, value: Any) -> GuildSettings:
        return replace(old, **{own: stored(value)})

    def reset(old: GuildSettings) -> GuildSettings:
        return replace(old, **{own: getattr(_DEFAULTS, own)})

    return Entry(name, page, title, about, control, read, write, reset, note)


def listed_entry(name: str, page: str, title: str, about: str, control: Listed) -> GuildEntry:
    """A field that a command of its own changes: the panel shows and resets it."""
    return field_entry(name, page, title, about, control, stored=not_here)


def not_here(value: Any) -> Any:
    """Refuse to write what is changed by a command of its own."""
    raise BotError(_("This setting has a command of its own."))
