"""What a waiting message says."""

from __future__ import annotations

import pytest

from bot.chat.queue.waiting import WaitStatus
from bot.discord_app.replies.waiting_text import LOADING, about, ordinal, thought_line, waiting_text


def test_place_and_time() -> None:
    assert waiting_text(WaitStatus(3, 12.3)) == "-# ⏳ 3rd in line, about 12 s"
    assert waiting_text(WaitStatus(1, None)) == "-# ⏳ 1st in line"
    behind = WaitStatus(2, 62, behind_own=True)
    assert waiting_text(behind) == "-# ⏳ 2nd in line, after your earlier message, about a minute"
    assert waiting_text(behind, shared=True) == "-# ⏳ 2nd in line, after the message before it, about a minute"
    assert waiting_text(WaitStatus(9, 12.3, behind_own=True, loading=True)) == LOADING
    some = waiting_text(WaitStatus(1, None, loading=True, load_progress="43 %"))
    assert some == "-# ⏳ The model is still loading (43 %). I answer as soon as it is ready."
    assert waiting_text(None) is None


@pytest.mark.parametrize(
    ("number", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (113, "113th"),
                         (21, "21st"), (102, "102nd")],
)  # fmt: skip
def test_ordinals(number: int, word: str) -> None:
    assert ordinal(number) == word


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "a few seconds"), (5.2, "about 6 s"), (17, "about 16 s"), (33, "about 35 s"),
                           (50, "about a minute"), (89, "about a minute"), (91, "about 2 minutes"),
                           (599, "about 10 minutes"), (9999, "more than a quarter of an hour")],
)  # fmt: skip
def test_a_time_is_rounded_to_what_an_estimate_is_worth(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_the_time_of_thinking_stands_on_a_line_of_its_own() -> None:
    assert thought_line(125) == "-# 💭 Thought for 2 min 5 s\n"
    assert thought_line(0.5) == thought_line(None) == ""
