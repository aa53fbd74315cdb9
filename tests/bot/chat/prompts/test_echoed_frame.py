"""A speaker's line that a model puts before its own words is taken off; nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chat.prompts.echoed_frame import EchoedFrameFilter

TEXTS = st.one_of(st.text(alphabet="[speakr: Bo]\n", max_size=60), st.text(max_size=60))


def filtered(*pieces: str) -> str:
    passed = EchoedFrameFilter()
    return "".join([*map(passed.push, pieces), passed.end()])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[speaker: Bob]\nHello", "Hello"),
        (" \n[Speaker: Ann (2)] Hello", "Hello"),
        ("[speaker: Guildllama (a member)]\n\n", ""),
        ("[speaker: ]x", "x"),
        ("[speaker: Bob]\n[speaker: Ann]\nHi", "[speaker: Ann]\nHi"),
        ("Hello\n[speaker: Bob]\n", "Hello\n[speaker: Bob]\n"),
        ("[speaker: Bob", "[speaker: Bob"),
        ("[speaker: a\nb]", "[speaker: a\nb]"),
        ("[speaker] is a word", "[speaker] is a word"),
        ("[1] A list", "[1] A list"),
        ("  indented", "  indented"),
        ("[speaker: " + "x" * 80 + "]", "[speaker: " + "x" * 80 + "]"),
        ("", ""),
    ],
)
def test_only_a_speakers_line_at_the_beginning_is_taken_off(text: str, shown: str) -> None:
    assert filtered(text) == shown
    assert filtered(*text) == shown


@given(TEXTS, st.lists(st.integers(0, 60), max_size=5))
def test_how_a_text_is_cut_into_pieces_changes_nothing(text: str, cuts: list[int]) -> None:
    at = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]
    assert filtered(*pieces) == filtered(text)


def test_other_words_are_not_held_back() -> None:
    passed = EchoedFrameFilter()
    assert passed.push("[s") == ""
    assert passed.push("ic] he said") == "[sic] he said"
    assert passed.push("[speaker: Bob]") == "[speaker: Bob]"
