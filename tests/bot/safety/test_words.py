"""Filtered words: found as a reader sees them, and never shown while a reply is written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.safety.stream import StreamFilter
from bot.safety.words import WordFilter, clean_word, fold


def found(words: str, text: str) -> bool:
    return WordFilter.of([clean_word(word) for word in words.split(",")]).matches(text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("darn", "Well, DARN!"),
        ("darn", "d\u200bar\u00adn it"),
        ("darn", "\uff44\uff41\uff52\uff4e"),  # full width
        ("darn", "d**ar**n"),
        ("darn", "**darn**"),
        ("darn", "x|darn|y"),
        ("darn", "||darn||"),
        ("darn", "darn's"),
        ("darn*", "darnedest"),
        ("*darn", "goddarn"),
        ("d*n", "dn"),
        ("a*b*c", "aXbYc"),
        ("straße", "STRASSE"),
        ("very bad", "It is very,\n  BAD indeed"),
        ("very b*", "a very badly made one"),
        ("바보*", "이 바보야!"),
        ("바보", "\u1107\u1161\u1107\u1169"),  # its letters apart
        ("*ばか*", "これはばかです"),
        ("x,darn", "darn"),
    ],
)
def test_a_filtered_word_is_found(words: str, text: str) -> None:
    assert found(words, text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("darn", "darning needles"),
        ("ass", "a class of assets"),
        ("a*b*c", "aYcXb"),
        ("ab*ba", "aba"),
        ("very bad", "very, very good and bad"),
        ("very bad", "bad very"),
        ("darn", "d a r n"),
        ("darn", ""),
        ("[a-z]+", "abc"),
    ],
)
def test_others_are_not(words: str, text: str) -> None:
    assert not found(words, text)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("  Very   BAD!! ", "very bad"),
        ("***", ""),
        ("?", ""),
        ("a**b", "a*b"),
        ("* *", ""),
        ("x\u200by", "xy"),
        ("(?i)a", "ia"),
    ],
)
def test_a_word_is_kept_folded_and_without_signs(given: str, kept: str) -> None:
    assert clean_word(given) == kept
    assert clean_word(kept) == kept


@given(st.text("ab", max_size=12), st.text("ab*", min_size=1, max_size=8).filter(lambda glob: glob.strip("*")))
def test_a_star_stands_for_any_letters_as_in_a_regular_expression(word: str, glob: str) -> None:
    wanted = ".*".join(map(re.escape, clean_word(glob).split("*")))
    assert WordFilter.of([clean_word(glob)]).matches(word) == bool(word and re.fullmatch(wanted, word))


def test_many_stars_take_no_more_time_than_a_look_at_the_text() -> None:
    """A backtracking matcher would take longer than the universe is old."""
    words = WordFilter.of([clean_word("*a" * 40 + "*b") for _ in range(200)])
    assert not words.matches("a" * 20_000)


TEXTS = st.text("ab *.\n\u200b바보", max_size=60)
WORDS = st.lists(st.sampled_from(["ab", "a*", "ab ba", "*b", "바보", "b a b"]), min_size=1, max_size=3)


@given(TEXTS, st.data(), WORDS)
def test_no_piece_of_a_stream_completes_a_filtered_word(text: str, data: st.DataObject, words: list[str]) -> None:
    words_filter = WordFilter.of(words)
    stream, shown, rest = StreamFilter(words_filter), "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        shown += stream.push(rest[:size])
        rest = rest[size:]
        assert text.startswith(shown)
        assert not words_filter.matches(shown)
    if not words_filter.matches(text):
        assert not stream.matched  # nothing harmless is kept out
        held = text[len(shown) :]
        assert not any(each.isspace() for each in held)  # only the last word is held back


def test_a_long_word_is_let_through_but_for_its_end() -> None:
    stream = StreamFilter(WordFilter.of(["*bad*"]))
    shown = "".join(stream.push("x" * 50) for _ in range(20))
    assert 800 <= len(shown) < 1000
    stream.push("bad" + "x" * 300)
    assert stream.matched


def test_what_is_shown_already_counts_for_a_phrase_and_a_restart_forgets() -> None:
    stream = StreamFilter(WordFilter.of(["very bad"]), before="It is very")
    assert stream.push(" good ") == " good "
    stream = StreamFilter(WordFilter.of(["very bad"]), before="It is very ")
    assert stream.push("bad, ") == ""
    assert stream.matched
    stream = StreamFilter(WordFilter.of(["very bad"]))
    assert stream.push("a very ") == "a very "
    stream.restart()
    assert stream.push("bad one ") == "bad one "


def test_folding_twice_is_folding_once() -> None:
    for text in ("ﬀ", "\u0345\u03b1", "İ", "ſ", "ΐ"):
        assert fold(fold(text)) == fold(text)
