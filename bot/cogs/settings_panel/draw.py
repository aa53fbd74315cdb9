"""Draws a panel: one page of settings as a message of components, each with what changes it.

A custom id is `word:what:opener:setting:fingerprint`. It says what a press is about and which value its presser saw.
What is allowed is decided when it is pressed. Knows discord.py's components and the entries; changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic

import discord
from discord.ui import (
    ActionRow,
    Button,
    ChannelSelect,
    Container,
    Label,
    LayoutView,
    Modal,
    RoleSelect,
    Section,
    Select,
    Separator,
    TextDisplay,
    TextInput,
)

from bot.cogs.settings_panel.entries import (
    MENU_VALUES,
    Channels,
    Entry,
    Listed,
    Number,
    Options,
    Roles,
    S,
    Source,
    Switch,
    fingerprint,
    is_chosen,
    value_text,
)
from bot.i18n.language import gettext as _

_ACCENT = 0x7D5FE0
_MAX_LABEL, _MAX_ABOUT = 45, 100  # Discord's limits
_MAX_COMPONENTS, _AROUND = 40, 3  # Discord's limit; the container, and the menu of the pages in its row
VALUE = "value"
"""The custom id of the field in a form."""
_THREADS = (discord.ChannelType.news_thread, discord.ChannelType.public_thread, discord.ChannelType.private_thread)
_PLACES = (
    discord.ChannelType.text,
    discord.ChannelType.news,
    discord.ChannelType.voice,
    discord.ChannelType.stage_voice,
    discord.ChannelType.forum,
    *_THREADS,
)


@dataclass(frozen=True, slots=True)
class Panel(Generic[S]):
    """Everything that is drawn: the settings and their entries, by pages."""

    word: str
    """The first one of its custom ids: an `Action`."""
    title: str
    pages: Mapping[str, str]
    entries: Sequence[Entry[S]]
    settings: S
    source: Source
    opener_id: int
    knows: Callable[[int], bool] = lambda channel_or_role_id: True
    """Whether a channel or role still exists, as far as the bot knows."""

    def entry(self, name: str) -> Entry[S] | None:
        """The setting of this name."""
        return next((each for each in self.entries if each.name == name), None)

    def custom_id(self, what: str, name: str, seen: str = "") -> str:
        """The custom id of a component. `seen`: the fingerprint of the value that it is drawn with."""
        return ":".join((self.word, what, str(self.opener_id), name, seen))

    def custom_id_of(self, what: str, entry: Entry[S]) -> str:
        """The custom id of a component of this setting."""
        return self.custom_id(what, entry.name, fingerprint(entry.read(self.settings)))


def draw(panel: Panel[S], page: str, *, note: str = "") -> LayoutView:
    """One page. `note`: what has just happened."""
    page = page if page in panel.pages else next(iter(panel.pages))
    head = f"### {panel.title}" + (f" · {panel.pages[page]}" if len(panel.pages) > 1 else "")
    items: list[Any] = [TextDisplay(head)]
    if note:
        items.append(TextDisplay(note))
    items.append(Separator())
    settings = [_setting(panel, entry) for entry in panel.entries if entry.page == page]
    apart = sum(map(_count, (*items, *chain(*settings)))) + len(settings) + _AROUND <= _MAX_COMPONENTS
    for number, components in enumerate(settings):
        if number and apart:
            items.append(Separator(visible=False))
        items += components
    view = LayoutView(timeout=None)
    view.add_item(Container(*items, accent_colour=_ACCENT))
    if len(panel.pages) > 1:
        options = [
            discord.SelectOption(label=label, value=name, default=name == page) for name, label in panel.pages.items()
        ]
        view.add_item(ActionRow(Select[LayoutView](custom_id=panel.custom_id("page", ""), options=options)))
    view.stop()  # discord.py need not remember it: the bot serves components by their custom ids
    return view


def _count(item: Any) -> int:
    """Components that count for Discord's limit: one, with those in it."""
    return 1 + sum(map(_count, getattr(item, "children", ()))) + (getattr(item, "accessory", None) is not None)


def _setting(panel: Panel[S], entry: Entry[S]) -> list[Any]:
    """The components of one setting: at most five."""
    text = TextDisplay[LayoutView](
        f"**{entry.title}**\n{value_text(entry, panel.settings, panel.source)}\n-# {entry.about}"
    )
    chosen = is_chosen(entry, panel.settings)
    reset = Button[LayoutView](label=_("Reset"), custom_id=panel.custom_id_of("reset", entry), disabled=not chosen)
    value = entry.read(panel.settings)
    match entry.control:
        case Number():
            change = Button[LayoutView](label=_("Change"), custom_id=panel.custom_id_of("open", entry))
            return [text, ActionRow(change, reset)]
        case Switch(unavailable=unavailable):
            switch = Button[LayoutView](
                label=_("Switch off") if value else _("Switch on"),
                style=discord.ButtonStyle.secondary if value else discord.ButtonStyle.success,
                custom_id=panel.custom_id_of("off" if value else "on", entry),
                disabled=bool(unavailable) and not value,
            )
            return [Section(text, accessory=switch)]
        case Options(options=options):
            menu: Any = Select[LayoutView](
                custom_id=panel.custom_id_of("set", entry),
                options=[
                    discord.SelectOption(
                        label=each.label[:_MAX_ABOUT],
                        value=each.value,
                        description=each.about[:_MAX_ABOUT] or None,
                        default=each.value == value,
                    )
                    for each in options
                ],
            )
        case Channels(categories=categories):
            menu = _channel_menu(panel, entry, categories=categories)
        case Roles():
            menu = _role_menu(panel, entry)
        case Listed():
            return [Section(text, accessory=reset)]
    return [Section(text, accessory=reset), ActionRow(menu)]


def _channel_menu(panel: Panel[S], entry: Entry[S], *, categories: bool) -> ChannelSelect[LayoutView]:
    ids = _kept(panel, entry)
    kinds = [*_PLACES, *((discord.ChannelType.category,) if categories else ())]
    return ChannelSelect(
        custom_id=panel.custom_id_of("set", entry),
        channel_types=kinds,
        placeholder=_("Choose channels") if len(ids) <= MENU_VALUES else _too_many(),
        min_values=0,
        max_values=MENU_VALUES,
        disabled=len(ids) > MENU_VALUES,
        default_values=[
            discord.SelectDefaultValue(id=each, type=discord.SelectDefaultValueType.channel)
            for each in ids[:MENU_VALUES]
        ],
    )


def _role_menu(panel: Panel[S], entry: Entry[S]) -> RoleSelect[LayoutView]:
    ids = _kept(panel, entry)
    return RoleSelect(
        custom_id=panel.custom_id_of("set", entry),
        placeholder=_("Choose roles") if len(ids) <= MENU_VALUES else _too_many(),
        min_values=0,
        max_values=MENU_VALUES,
        disabled=len(ids) > MENU_VALUES,
        default_values=[
            discord.SelectDefaultValue(id=each, type=discord.SelectDefaultValueType.role) for each in ids[:MENU_VALUES]
        ],
    )


def _kept(panel: Panel[S], entry: Entry[S]) -> list[int]:
    """The ids of a list that still exist: a menu cannot show what was deleted, and the next choice drops it."""
    return [each for each in sorted(entry.read(panel.settings)) if panel.knows(each)]


def _too_many() -> str:
    return _("Too many for this menu: please use the command")


def number_form(panel: Panel[S], entry: Entry[S], number: Number) -> Modal:
    """The form for a number, with what was chosen filled in."""
    value = entry.read(panel.settings)
    default = _("no limit") if number.default is None else number.shown(number.default)
    field: TextInput[Modal] = TextInput(
        custom_id=VALUE,
        required=False,
        default=None if value is None else _typed(number, value),
        placeholder=number.hint or None,
        max_length=20,
    )
    about = _("From {least} to {most}. Left empty: {default}.").format(
        least=number.shown(number.least), most=number.shown(number.most), default=default
    )
    modal = Modal(title=_shortened(entry.title), custom_id=panel.custom_id_of("set", entry), timeout=None)
    modal.add_item(Label(text=_("Value"), description=about[:_MAX_ABOUT], component=field))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal


def _typed(number: Number, value: int) -> str:
    """A value as it would be typed: a duration in hours where that is exact."""
    if not number.hint:
        return str(value)
    for seconds, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if value % seconds == 0:
            return f"{value // seconds}{unit}"
    return f"{value}s"


def _shortened(title: str) -> str:
    return title if len(title) <= _MAX_LABEL else title[: _MAX_LABEL - 1].rstrip() + "…"
