"""What a panel knows of a setting: its texts, how it is read and written, and with what it is changed.

A registry is a tuple of entries: a new setting is one entry more. Entries are made when a panel is drawn, in the
language of who reads it. Pure: knows neither Discord nor the database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, is_dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from bot.errors import BotError
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext

S = TypeVar("S")
"""The settings as a whole: those of a guild, or of a member."""
MAX_NAMED = 10
"""Channels or roles of a list that are named; the rest is counted."""
MENU_VALUES = 25
"""Values that a menu can hold: Discord's limit."""


def plain_number(value: int) -> str:
    """12000 as "12,000"."""
    return f"{value:,}"


def number_in(text: str) -> int:
    """The whole number that was typed. Raises BotError."""
    digits = text.strip().replace(",", "").replace("_", "").replace(" ", "")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 12:
        raise BotError(_("Please write a whole number. Nothing was changed."))
    return int(digits)


@dataclass(frozen=True, slots=True)
class Number:
    """A number, written into a form. None is stored where nothing was chosen: `default` applies, None for no limit.

    A number that was chosen before `most` was lowered counts as `most`.
    """

    default: int | None
    least: int
    most: int
    shown: Callable[[int], str] = plain_number
    read: Callable[[str], int] = number_in
    hint: str = ""
    """An example of what can be written, where it is more than digits."""


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of a menu."""

    value: str
    label: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """One of some choices. The default is one of them."""

    options: tuple[Option, ...]
    default: str


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off."""

    default: bool
    unavailable: str = ""
    """Why it cannot be switched on, if the operator does not allow it."""


@dataclass(frozen=True, slots=True)
class Channels:
    """A list of channels. None on it: `empty` is what then applies."""

    empty: str
    categories: bool = False


@dataclass(frozen=True, slots=True)
class Roles:
    """A list of roles. None on it: `empty` is what then applies."""

    empty: str


@dataclass(frozen=True, slots=True)
class Listed:
    """What has a command of its own, and is only shown and reset here. `lines` are one for each thing on the list."""

    lines: tuple[str, ...]
    empty: str


Control = Number | Options | Switch | Channels | Roles | Listed


@dataclass(frozen=True, slots=True)
class Entry(Generic[S]):
    """One setting. `name` is its name in custom ids; Discord shows `title` and `about`."""

    name: str
    page: str
    title: str
    about: str
    control: Control
    read: Callable[[S], Any]
    write: Callable[[S, Any], S]
    """The settings with another value: of a list, a tuple of ids. May raise BotError."""
    reset: Callable[[S], S]
    note: Callable[[Any], str] = lambda value: ""
    """What to say once this value was chosen."""


@dataclass(frozen=True, slots=True)
class Source:
    """The words for where a value comes from."""

    default: str
    chosen: str
    limit: str


def is_chosen(entry: Entry[S], settings: S) -> bool:
    """Whether anything but the default was chosen."""
    value = entry.read(settings)
    match entry.control:
        case Number():
            return value is not None
        case Options(default=default) | Switch(default=default):
            return bool(value != default)
        case _:
            return bool(value)


def value_text(entry: Entry[S], settings: S, source: Source) -> str:
    """The value in force and its source, as Markdown."""
    value = entry.read(settings)
    origin = source.chosen if is_chosen(entry, settings) else source.default
    match entry.control:
        case Number() as number if value is not None and value > number.most:
            origin = source.limit.format(chosen=number.shown(value))
        case Switch(unavailable=unavailable) if unavailable:
            origin = unavailable
    return f"{shown_value(entry, settings)} · {origin}"


def shown_value(entry: Entry[S], settings: S) -> str:
    """The value in force, as Markdown."""
    value = entry.read(settings)
    match entry.control:
        case Number() as number:
            if value is None:
                return _bold(_("no limit") if number.default is None else number.shown(number.default))
            return _bold(number.shown(min(value, number.most)))
        case Options(options=options):
            return _bold(next((each.label for each in options if each.value == value), str(value)))
        case Switch(unavailable=unavailable):
            return _bold(_("on") if value and not unavailable else _("off"))
        case Channels(empty=empty):
            return _named("<#{}>", value) or _bold(empty)
        case Roles(empty=empty):
            return _named("<@&{}>", value) or _bold(empty)
        case Listed(lines=lines, empty=empty):
            return _and_more(list(lines[:MAX_NAMED]), len(lines)) or _bold(empty)


def _bold(text: str) -> str:
    return f"**{text}**"


def _named(pattern: str, ids: Iterable[int]) -> str:
    every = sorted(ids)
    return _and_more([pattern.format(each) for each in every[:MAX_NAMED]], len(every))


def _and_more(named: list[str], total: int) -> str:
    more = total - len(named)
    listed = ", ".join(named)
    if not more:
        return listed
    return ngettext("{listed} and {number} more", "{listed} and {number} more", more).format(listed=listed, number=more)


def fingerprint(value: Any) -> str:
    """A short text that differs for another value: a button says with it which value its presser saw."""
    return hashlib.blake2s(json.dumps(_plain(value), sort_keys=True).encode(), digest_size=6).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(each) for name, each in asdict(value).items()}
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
