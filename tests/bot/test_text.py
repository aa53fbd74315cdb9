"""Text is cleaned to what both databases can hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.text import clean_piece, clean_text


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_clean_text_is_what_both_databases_hold(text: str):
    clean = clean_text(text)
    assert "\x00" not in clean
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert clean_text(clean) == clean
    assert clean == clean.strip()
    assert "".join(clean_piece(character) for character in text) == clean_piece(text)
