"""Whose language is used where."""

from __future__ import annotations

from unittest.mock import AsyncMock

import pytest

from bot.discord_app.languages import Languages
from bot.errors import DatabaseUnavailable
from models.types import GuildSettings, Place


def place(guild_id: int, *, ephemeral: bool = False) -> Place:
    return Place(guild_id=guild_id, channel_id=3, asker_id=7, nonce=9, ephemeral=ephemeral)


def languages(chosen: str | None = None, own: str | None = None, discords: str | None = None) -> Languages:
    settings = AsyncMock()
    settings.get.return_value = GuildSettings(locale=chosen)
    return Languages(settings, AsyncMock(return_value=own), lambda guild_id: discords)


@pytest.mark.parametrize(
    ("chosen", "discords", "language"),
    [(None, None, "en"), (None, "ko", "ko"), ("en", "ko", "en"), ("ko", "en-GB", "ko"), (None, "fr", "en")],
)
async def test_a_guild_chooses_before_discord_does(chosen: str | None, discords: str | None, language: str) -> None:
    assert await languages(chosen=chosen, discords=discords).of_place(place(5)) == language


@pytest.mark.parametrize(
    ("own", "locale", "language"), [(None, "ko", "ko"), (None, "de", "en"), ("ko", "en-US", "ko"), ("en", "ko", "en")]
)
async def test_a_member_chooses_before_their_client_does(own: str | None, locale: str, language: str) -> None:
    known = languages(own=own, discords="ko")
    assert await known.of_user(5, 7, locale) == language
    assert await known.of_place(place(5, ephemeral=True)) == language
    assert await known.of_place(place(0)) == language


async def test_direct_messages_after_a_restart_are_in_the_language_that_the_member_chose() -> None:
    assert await languages(own="ko").of_place(place(0)) == "ko"


async def test_who_never_used_a_command_reads_english_in_direct_messages() -> None:
    assert await languages(discords="ko").of_place(place(0)) == "en"


async def test_a_guild_whose_settings_cannot_be_read_has_the_language_that_it_gave_discord() -> None:
    settings = AsyncMock()
    settings.get.side_effect = DatabaseUnavailable("gone")
    assert await Languages(settings, discords=lambda guild_id: "ko").of_guild(5) == "ko"
