"""Texts of cards and notes that get longer than a message of Discord once they are escaped."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bot.characters.card import read_card
from bot.characters.files.reading import ImportedCard
from bot.characters.preview import preview
from bot.cogs.cards.text import preview_text
from bot.cogs.memory.text import PAGE_CHARS, pages
from bot.discord_app.splitting.code_fences import utf16_length
from bot.errors import PersonaTooLong
from models.types import MemoryFact, Summary

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize("letter", ["*", "_", "😀", "[", "a"])
def test_attack_a_preview_that_is_longer_than_a_message(letter: str) -> None:
    data = {
        "name": letter * 80,
        "creator": letter * 200,
        "creator_notes": "\n".join([letter * 100] * 9),
        "description": " ".join(f"{{{{{'_' * 25}{number}}}}}" for number in range(9)),
        "first_mes": "hi",
        "extensions": {letter * 39 + str(number): 1 for number in range(9)},
        "character_book": {
            "entries": [{"keys": ["a"], "content": f"@@{'_' * 39}{number}\nx"} for number in range(9)],
        },
    }
    imported = ImportedCard(read_card({"spec": "chara_card_v3", "data": data}), "JSON")
    text = preview_text(imported, preview(imported, has_picture=False), None, PersonaTooLong(8000, 99_999))
    assert utf16_length(text) <= 1700
    assert "**Used:**" in text
    assert "**Not used:**" in text


def test_attack_a_summary_that_is_longer_than_a_page() -> None:
    summary = Summary(1, "\n".join(["*" * 299] * 4), 1, 2, NOW)
    facts = tuple(MemoryFact(number, "_" * 200, None, NOW) for number in range(50))
    found = pages(facts, summary, {})
    assert all(utf16_length("\n".join(page)) <= PAGE_CHARS for page in found)
    whole = "\n".join(line for page in found for line in page)
    assert whole.count("\\*") == 4 * 299
    assert whole.count("\\_") == 50 * 200
