"""The list of reports fits into a message, whatever members have written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bot.cogs.admin.report_text import PAGE, list_text
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.i18n.language import use_language
from models.types import ReportLine

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
LARGE = 9_000_000_000_000_000_000


def reports(reason: str) -> list[ReportLine]:
    return [
        ReportLine(10**9 + number, LARGE, LARGE, LARGE, NOW, closed_at=NOW, closed_by=LARGE, reason=reason)
        for number in range(PAGE)
    ]


@pytest.mark.parametrize("locale", ["en-US", "ko"])
@pytest.mark.parametrize("letter", ["*", "😀", "_", "@everyone "])
def test_attack_a_page_of_reasons_that_is_longer_than_a_message(letter: str, locale: str) -> None:
    with use_language(locale):
        text = list_text(reports(letter * 1000), PAGE, PAGE, LARGE, 30)
    assert utf16_length(text) <= MESSAGE_LIMIT
    assert text.count("\n> ") == PAGE
    assert text.count("…") == PAGE


def test_a_reason_of_usual_length_is_shown_in_full() -> None:
    text = list_text(reports("It is rude. " * 10), PAGE, PAGE, None, 30)
    assert text.count("It is rude. " * 9 + "It is rude.") == PAGE
