"""Splitting a reply: no text is lost, no chunk is over the limit, no code block is left open."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT, split_message

# Pieces that are hard to split next to each other: fences of both kinds and several lengths, closers with trailing
# text, long info strings, indentation, emoji of several code points, very long words.
FENCES = ("```", "````", "~~~", "~~~~~", "`", "``", "```py", "~~~ rust", "   ```", "    ```", "``` x", "``` a`b")
SMALL = ("\n", "\n\n", " ", "  ", "> quote", "- item", "x", "word ", "é", "e\u0301", "漢字", "\t", "\r", "#", "|a|\n")
EMOJI = ("👩‍👩‍👧‍👦", "🇫🇷", "😀" * 300)
LARGE = ("x" * 700, "word " * 90, "line\n" * 60, "```" + "i" * 1500)
PIECES = st.sampled_from(FENCES + SMALL + EMOJI + LARGE)
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=3000)


def open_fence(text: str) -> str:
    """The marker of the code block left open at the end of `text`, or '', by a second implementation of CommonMark."""
    marker = ""
    for line in text.split("\n"):
        found = re.match(r"^ {0,3}(`{3,}|~{3,})(.*)$", line, re.DOTALL)
        if not found:
            continue
        run, rest = found.groups()
        if marker:
            if run.startswith(marker) and rest.strip(" \t") == "":
                marker = ""
        elif run[0] == "~" or "`" not in rest:
            marker = run
    return marker


@given(TEXTS)
@settings(max_examples=400, deadline=None)
@example("```py\n" + "x = 1\n" * 900 + "```\nafter")
@example("~~~~\n" + "```\n" * 900 + "~~~~")
@example("a" * 1996 + "```b\n" + "c" * 3000)
@example("```\n" + "a" * 1993 + "```" + "b" * 100)
@example("``` " + "i" * 5000 + "\ncode\n```")
def test_b15_every_chunk_fits_and_closes_what_it_opens(text: str) -> None:
    chunks = split_message(text)
    assert "".join(chunk.body for chunk in chunks) == text
    for chunk in chunks:
        assert 0 < utf16_length(chunk.text) <= MESSAGE_LIMIT
        assert open_fence(chunk.text) == ""


@given(st.text(alphabet="`~ \n a", max_size=6000))
@settings(max_examples=200, deadline=None)
def test_walls_of_fence_characters_still_fit(text: str) -> None:
    chunks = split_message(text)
    assert "".join(chunk.body for chunk in chunks) == text
    assert all(0 < utf16_length(chunk.text) <= MESSAGE_LIMIT for chunk in chunks)


@given(st.integers(1, 60), st.sampled_from(["python", "c++", "", "objective-c"]))
def test_code_is_reopened_in_its_language(lines: int, language: str) -> None:
    code = "print('hello, world')\n" * (lines + 100)
    chunks = split_message(f"Look:\n\n```{language}\n{code}```\nDone.")
    assert len(chunks) > 1
    assert all(chunk.opening == f"```{language}\n" for chunk in chunks[1:] if chunk.opening)
    assert not any(f"```{language}\n```" in chunk.text for chunk in chunks)  # no empty block on either side of a cut
    shown = "".join(chunk.text.removeprefix(chunk.opening).removesuffix(chunk.closing) for chunk in chunks)
    assert shown == f"Look:\n\n```{language}\n{code}```\nDone."


def test_prefers_paragraphs_then_lines_then_spaces() -> None:
    paragraph = "word " * 200 + "\n\n"
    assert split_message(paragraph * 3)[0].body == paragraph
    line = "word " * 150 + "\n"
    assert split_message(line * 4)[0].body == line * 2
    assert split_message("word " * 1000)[0].body.endswith(" ")
    assert [len(chunk.body) for chunk in split_message("x" * 4001)] == [2000, 2000, 1]


def test_joined_emoji_are_not_split() -> None:
    family = "👩‍👩‍👧‍👦"
    text = "a" * (MESSAGE_LIMIT - 4) + family
    assert split_message(text)[1].body == family


def test_an_empty_text_and_a_limit_that_is_too_small() -> None:
    assert split_message("") == ()
    with pytest.raises(ValueError, match="leaves no room"):
        split_message("x", limit=50)
