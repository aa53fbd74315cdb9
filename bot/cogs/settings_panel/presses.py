"""What the components of a panel do: turn the page, open a form, store a value, take it back.

Each press reads the settings again. A press that was made on an older value than the one stored changes nothing and
shows what is stored now: somebody else has changed it meanwhile. Knows the entries; where the settings are is a store's
matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol

from discord.ui import LayoutView

from bot.cogs.dialogs.answers import OldButton
from bot.cogs.settings_panel.draw import VALUE, Panel, draw, number_form
from bot.cogs.settings_panel.entries import (
    MENU_VALUES,
    Channels,
    Entry,
    Listed,
    Number,
    Options,
    Roles,
    S,
    Switch,
    fingerprint,
)
from bot.discord_app.caller import caller_of
from bot.discord_app.context import Interaction
from bot.discord_app.delivery import defer_click
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.permissions.authorise import authorise_opener
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError, DatabaseUnavailable
from bot.i18n.language import gettext as _

_FORM_TIMEOUT = 2.0  # seconds, of the 3 in which a form must be opened


class PanelStore(Protocol[S]):
    """Where the settings of a panel are."""

    def panel(self, interaction: Interaction, settings: S) -> Panel[S]:
        """The panel of these settings, for who uses it."""

    async def read(self, interaction: Interaction) -> S:
        """The settings as they are stored."""

    async def change(self, interaction: Interaction, change: Callable[[S], S]) -> S:
        """Apply a change and return the settings after it. What the change raises leaves them as they were."""


class _ChangedMeanwhile(Exception):
    """The stored value is not the one that was shown."""


class Presses(Generic[S]):
    """Serves the components of one kind of panel."""

    def __init__(self, store: PanelStore[S]) -> None:
        self._store = store

    async def first(self, interaction: Interaction) -> LayoutView:
        """The panel as a command shows it."""
        panel = self._store.panel(interaction, await self._store.read(interaction))
        return draw(panel, next(iter(panel.pages)))

    async def pressed(self, interaction: Interaction, argument: str) -> None:
        """Serve a component or a form. `argument`: what follows the word in its custom id."""
        parts = argument.split(":")
        if len(parts) != 4:
            raise OldButton()
        what, opener, name, seen = parts
        authorise_opener(caller_of(interaction), opener)
        if what == "open":
            await self._open_form(interaction, name)
            return
        if not await defer_click(interaction):
            return
        if what == "page":
            [page, *_] = _values(interaction) or ("",)
            await self._show(interaction, await self._store.read(interaction), page)
            return
        await self._change(interaction, what, name, seen)

    async def _open_form(self, interaction: Interaction, name: str) -> None:
        try:
            async with asyncio.timeout(_FORM_TIMEOUT):
                panel = self._store.panel(interaction, await self._store.read(interaction))
        except TimeoutError:
            raise DatabaseUnavailable("the settings could not be read in time") from None
        entry = panel.entry(name)
        if entry is None or not isinstance(entry.control, Number):
            raise OldButton()
        await interaction.response.send_modal(number_form(panel, entry, entry.control))

    async def _change(self, interaction: Interaction, what: str, name: str, seen: str) -> None:
        """Store another value, unless the one that was shown is not stored any more."""
        before = await self._store.read(interaction)
        panel = self._store.panel(interaction, before)
        entry = panel.entry(name)
        if entry is None or what not in ("set", "on", "off", "reset"):
            raise OldButton()
        found: Entry[S] = entry
        value = None if what == "reset" else chosen_value(found, what, interaction, found.read(before))

        def changed(old: S) -> S:
            if fingerprint(found.read(old)) != seen:
                raise _ChangedMeanwhile()
            return found.reset(old) if what == "reset" else found.write(old, value)

        try:
            after = await self._store.change(interaction, changed)
        except _ChangedMeanwhile:
            note = _("⚠️ **{setting}** was changed meanwhile, so I changed nothing. This is what applies now.")
            await self._show(
                interaction, await self._store.read(interaction), entry.page, note.format(setting=entry.title)
            )
            return
        saved = _("✅ Saved: **{setting}**.").format(setting=entry.title)
        more = entry.note(found.read(after))
        await self._show(interaction, after, entry.page, f"{saved} {more}".strip())

    async def _show(self, interaction: Interaction, settings: S, page: str, note: str = "") -> None:
        view = draw(self._store.panel(interaction, settings), page, note=note)
        await interaction.edit_original_response(view=view, allowed_mentions=NO_MENTIONS)


def chosen_value(entry: Entry[S], what: str, interaction: Interaction, before: Any) -> Any:
    """The value that was chosen or typed. `before`: the present one. Raises BotError for what cannot be one."""
    match entry.control:
        case Number() as number:
            return _number(number, submitted_values(interaction.data).get(VALUE, ("",))[0])
        case Switch(unavailable=unavailable) if what in ("on", "off"):
            if what == "on" and unavailable:
                raise BotError(unavailable)
            return what == "on"
        case Options(options=options):
            given = _values(interaction)
            if len(given) == 1 and given[0] in {each.value for each in options}:
                return given[0]
        case Channels():
            return _ids(interaction, "channels", before)
        case Roles():
            return _ids(interaction, "roles", before)
        case Switch() | Listed():
            pass
    raise OldButton()


def _number(number: Number, typed: str) -> int | None:
    return within(number, number.read(typed)) if typed.strip() else None


def within(number: Number, value: int) -> int:
    """The value, if it is allowed. Raises BotError."""
    if not number.least <= value <= number.most:
        raise BotError(
            _("Please choose from {least} to {most}. Nothing was changed.").format(
                least=number.shown(number.least), most=number.shown(number.most)
            )
        )
    return value


def _values(interaction: Interaction) -> Sequence[str]:
    data: object = interaction.data
    values = data.get("values") if isinstance(data, Mapping) else None
    return [each for each in values if isinstance(each, str)] if isinstance(values, list) else []


def _ids(interaction: Interaction, kind: str, before: Any) -> tuple[int, ...]:
    """The ids that were chosen, of channels or roles that Discord names with the interaction, or that were on the list.

    Discord names only those of the guild in which it was used.
    """
    data: Any = interaction.data
    resolved = data.get("resolved") if isinstance(data, Mapping) else None
    named = set(resolved.get(kind) or ()) if isinstance(resolved, Mapping) else set()
    given = _values(interaction)
    if len(given) > MENU_VALUES or not set(given) <= named | {str(each) for each in before}:
        raise OldButton()
    return tuple(sorted(int(each) for each in set(given)))
