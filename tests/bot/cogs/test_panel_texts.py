"""The panels speak the language of who reads them, in every title, explanation, choice and note."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest

from bot.cogs.settings_panel.entries import Channels, Entry, Listed, Options, Roles, Switch
from bot.cogs.settings_panel.guild_entries import guild_entries, guild_pages, guild_source
from bot.cogs.settings_panel.own_entries import OwnChoice, own_entries, own_source
from bot.i18n.language import use_language
from bot.settings import load_settings
from models.types import DialogScope, GuildSettings, MemberSettings

HANGUL = re.compile("[가-힣]")
LANGUAGE_NAMES = {"English", "한국어"}


def texts_of(entry: Entry[Any]) -> Iterator[str]:
    """All texts of one setting."""
    yield from (entry.title, entry.about)
    match entry.control:
        case Options(options=options):
            yield from (text for each in options for text in (each.label, each.about) if text)
        case Switch(unavailable=unavailable) if unavailable:
            yield unavailable
        case Channels(empty=empty) | Roles(empty=empty) | Listed(empty=empty):
            yield empty
    values = get_args(DialogScope) if entry.name == "scope" else (True, False)
    yield from (text for value in values if (text := entry.note(value)))


def of_a_guild() -> list[str]:
    entries = guild_entries(GuildSettings(), load_settings(env_file=None))
    source = guild_source()
    shown = [text for entry in entries for text in texts_of(entry)]
    return [*shown, *guild_pages().values(), source.default, source.chosen, source.limit]


def of_a_member() -> list[str]:
    entries = own_entries(OwnChoice(MemberSettings(), GuildSettings()), load_settings(env_file=None))
    source = own_source()
    shown = [text for entry in entries for text in texts_of(entry)]
    return [*shown, source.default, source.chosen, source.limit]


@pytest.mark.parametrize("texts", [of_a_guild, of_a_member])
def test_a_panel_is_korean_for_koreans(texts: Callable[[], list[str]]) -> None:
    with use_language("ko"):
        found = texts()
    assert len(found) > 10
    assert [text for text in found if text not in LANGUAGE_NAMES and not HANGUL.search(text)] == []
