"""Text is cleaned to what both databases can hold."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.text import clean_piece, clean_text, duration_text, thought_for


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_clean_text_is_what_both_databases_hold(text: str):
    clean = clean_text(text)
    assert "\x00" not in clean
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert clean_text(clean) == clean
    assert clean == clean.strip()
    assert "".join(clean_piece(character) for character in text) == clean_piece(text)


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, ""), (0.9, ""), (1.2, "thought for 1 s"), (59.4, "thought for 59 s"),
                           (59.6, "thought for 1 min 0 s"), (125, "thought for 2 min 5 s")],
)  # fmt: skip
def test_how_long_a_model_thought(seconds: float | None, words: str):
    assert thought_for(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (86_400, "1 day"), (604_800, "7 days"), (129_600, "36 hours"), (3600, "1 hour"), (5400, "90 minutes"),
        (60, "1 minute"), (61, "61 seconds"), (1, "1 second"),
    ],
)  # fmt: skip
def test_a_duration_in_the_largest_unit_that_says_it_exactly(seconds: int, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text
