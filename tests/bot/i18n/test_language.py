"""The language of a text is that of the task that makes it, or of who is told it later."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from bot.errors import BotError, EmptyText, FilesRefused, QuotaUsedUp, UnknownPersona
from bot.i18n.dates import day, day_and_time
from bot.i18n.language import current_language, gettext, ngettext, pgettext, supported, use_language
from bot.i18n.translated import english


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


def test_a_text_is_told_again_in_another_language_with_its_values() -> None:
    with use_language("ko"):
        count = ngettext("{number} exchange", "{number} exchanges", 1).format(number=1)
        told = gettext("I have forgotten {exchanges}.").format(exchanges=count)
        assert told == "문답 1개를 잊었습니다."
        where = pgettext("button", "Stop")
    assert gettext(told) == "I have forgotten 1 exchange."
    assert english(where) == "Stop"
    assert english("typed by a member") == "typed by a member"


def test_particles_follow_the_values() -> None:
    with use_language("ko"):
        stored = gettext("{name} is stored.")
        assert stored.format(name="**라마**") == "**라마**를 저장했습니다."
        assert stored.format(name="**봇**") == "**봇**을 저장했습니다."
        assert EmptyText("name").user_message == "이름이 비어 있습니다. 내용을 입력해 주세요."
        assert EmptyText("note").user_message == "메모가 비어 있습니다. 내용을 입력해 주세요."


def test_an_error_is_english_in_the_log_whatever_its_reader_speaks() -> None:
    with use_language("ko"):
        error = UnknownPersona("라마", "/persona")
        quota = QuotaUsedUp("tokens", 1, datetime(2026, 1, 2, tzinfo=UTC))
        files = FilesRefused([gettext("{files}: {reason}").format(files="a", reason=gettext("This file is empty."))])
        assert error.user_message.startswith("여기에는 “라마” 페르소나가 없습니다.")
        assert files.lines == "a: 빈 파일입니다."
    assert str(error) == "There is no persona “라마” here. `/persona list` shows which there are."
    assert str(quota).startswith("That was all for today: here you have 1 token a day. Ask me again after ")
    assert files.lines == "a: This file is empty."
    assert gettext(BotError("as it was typed").user_message) == "as it was typed"


def test_dates_stand_as_the_language_writes_them() -> None:
    moment = datetime(2026, 9, 5, 7, 3)  # noqa: DTZ001 - as the database has it, UTC
    assert (day(moment), day_and_time(moment)) == ("05 Sep 2026", "05 Sep, 07:03")
    with use_language("ko"):
        assert (day(moment), day_and_time(moment)) == ("2026년 9월 5일", "9월 5일 07:03")
