"""The language of a text is that of the task that makes it."""

from __future__ import annotations

import asyncio

import pytest

from bot.i18n.language import current_language, gettext, ngettext, supported, use_language


@pytest.mark.parametrize(
    ("locale", "language"), [("ko", "ko"), ("en-GB", "en"), ("en-US", "en"), ("xx", "en"), (None, "en"), ("", "en")]
)
def test_a_locale_has_a_language(locale: str | None, language: str) -> None:
    assert supported(locale) == language


def test_korean_is_used_until_the_block_ends() -> None:
    with use_language("ko"):
        assert gettext("Saved.") == "저장했습니다."
    assert gettext("Saved.") == "Saved."


def test_a_text_without_translation_stays_english() -> None:
    with use_language("ko"):
        assert gettext("No catalogue has this.") == "No catalogue has this."
        assert ngettext("{number} unheard thing", "{number} unheard things", 2) == "{number} unheard things"


async def test_tasks_have_their_own_language() -> None:
    async def of(locale: str) -> str:
        with use_language(locale):
            await asyncio.sleep(0)
            return current_language()

    assert await asyncio.gather(of("ko"), of("en-US"), of("ko")) == ["ko", "en", "ko"]
