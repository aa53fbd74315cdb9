"""Pages of a conversation: every character is on exactly one of them, in both directions."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from bot.cogs.dialogs.pages import Mark, exchange_text, page_after, page_before, result_line, results_page, transcript
from bot.discord_app.splitting.code_fences import fence_after, utf16_length
from models.types import Exchange, StoredFile

NOW = datetime(2026, 11, 20, tzinfo=UTC)
TEXTS = st.one_of(
    st.text(max_size=50),
    st.integers(1, 400).map(lambda number: "word " * number),
    st.integers(1, 900).map(lambda number: "👩" * number),
    st.integers(1, 300).map(lambda number: "```python\n" + "print(1)\n" * number),
)


def exchanges_of(texts: list[tuple[str, str]]) -> list[Exchange]:
    return [Exchange(number, 1, NOW, user, reply) for number, (user, reply) in enumerate(texts, start=5)]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_pages_forth_and_back_cover_everything_once(texts: list[tuple[str, str]]) -> None:
    exchanges = exchanges_of(texts)
    back, mark = [], None
    while (page := page_before(exchanges, mark)) is not None:
        assert utf16_length(page.text) <= 2000 - 40
        back.append((page.first, page.last))
        mark = page.first
    forth, mark = [], Mark(0)
    while (page := page_after(exchanges, mark)) is not None:
        assert utf16_length(page.text) <= 2000 - 40
        forth.append((page.first, page.last))
        mark = page.last
    for runs in (list(reversed(back)), forth):
        assert runs[0][0] == Mark(5, 0)
        assert runs[-1][1].turn_id == exchanges[-1].turn_id
        for (_, last), (first, _) in itertools.pairwise(runs):
            assert first in (Mark(last.turn_id, last.part + 1), Mark(last.turn_id + 1, 0))


@given(TEXTS, TEXTS)
def test_a_text_does_not_swallow_what_follows_it(user: str, reply: str) -> None:
    assert fence_after(exchange_text(Exchange(1, 1, NOW, user, reply)), None) is None


def test_results_that_take_too_much_room_are_left_for_the_next_page() -> None:
    wide = "*👩_" * 200
    exchanges = [Exchange(number, 1, NOW, wide + "needle" + wide, "") for number in range(9, 0, -1)]
    text, shown = results_page(exchanges, "needle", {}, 1)
    assert 1 < shown < 9
    assert utf16_length(text) <= 1900
    assert text.count("<t:") == shown


def test_what_was_asked_about_is_no_file_and_no_words_of_the_member() -> None:
    quotes = (
        StoredFile("me", "Their words", kind="quote", author_id=7),
        StoredFile("Guildllama", "My words", kind="quote"),
        StoredFile("a*b*.txt", "Text", kind="quoted file", author_id=7),
        StoredFile("own.txt", "Text"),
    )
    exchange = Exchange(1, 1, NOW, "Why?", "So.", files=quotes)
    assert exchange_text(exchange) == (
        "**You:** Why?\n-# about a message by me\n-# about a message of mine\n-# file of the message: a\\*b\\*.txt"
        "\n-# own.txt\n**Me:** So."
    )
    assert "**About a message by:** **me**" in result_line(exchange, "me", None, None)
    kept = transcript([exchange], None)
    assert "About a message by me:\n\n> Their words" in kept
    assert "File own.txt:\n\n> Text" in kept
    assert "sender" not in kept
