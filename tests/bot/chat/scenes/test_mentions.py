"""Which character a message names: as a word, with Korean particles, in scripts without spaces."""

from __future__ import annotations

import pytest

from bot.chat.scenes.choosing import chosen_name
from bot.chat.scenes.mentions import called_character, named_character

NAMES = ("Jack", "Jack Sparrow", "Anne", "지민", "ジャック", "李白", "Ann", "R2-D2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there", None),
        ("JACK, what now?", "Jack"),
        ("ask jack sparrow!", "Jack Sparrow"),
        ("anne? or jack?", "Anne"),
        ("Annex and Jackson and hijack", None),
        ("What does Ann\u200be say", "Anne"),
        ("(Ｊａｃｋ)", "Jack"),
        ("Jack's ship", "Jack"),
        ("지민아 안녕", "지민"),
        ("오늘 지민이는 뭐해?", "지민"),
        ("지민씨에게 물어봐", "지민"),
        ("지민", "지민"),
        ("지민당은 아니다", None),
        ("Jack은 어디 있어?", "Jack"),
        ("ジャックさん、こんにちは", "ジャック"),
        ("请问李白在哪里", "李白"),
        ("R2-D2 beeps", "R2-D2"),
        ("", None),
    ],
)
def test_the_first_name_that_is_a_word(text: str, expected: str | None) -> None:
    found = named_character(text, NAMES)
    assert (None if found is None else NAMES[found]) == expected


def test_names_of_nothing_are_never_named() -> None:
    assert named_character("anything", ("\u200b", "   ")) is None
    assert named_character("💀 speaks", ("💀",)) == 0
    assert named_character("x" * 100_000 + " jack", NAMES) == 0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"speaker": "Anne"}', 2),
        ('{"speaker": "Nobody"}', None),
        ('Sure! {"speaker": "Anne"}', 2),
        ("I think it is Jack Sparrow.", 1),
        ("[" * 50_000, None),
        ("", None),
    ],
)
def test_what_the_model_says_is_read_leniently(reply: str, expected: int | None) -> None:
    assert chosen_name(reply, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Jack, what now?", "Jack"),
        ("jack sparrow: come", "Jack Sparrow"),
        ("  @Anne!", "Anne"),
        ("anne", "Anne"),
        ("Anne …", "Anne"),
        ("지민아, 안녕", "지민"),
        ("李白，你在哪里", "李白"),
        ("R2-D2?", "R2-D2"),
        ("And you, Anne?", "Anne"),
        ("Tell me more, Jack Sparrow …", "Jack Sparrow"),
        ("누가 왔니, 지민아?", "지민"),
        ("你好，李白！", "李白"),
        ("Anne, what of you and, say, Jack?", "Anne"),
        ("What does Anne think?", None),
        ("I like Anne.", None),
        ("Here, Annex", None),
        ("Jack's ship, I mean", None),
        ("Ann-Marie, hello", None),
        ("Annex, hello", None),
        ("Anne knows", None),
        ("I saw Mary-Anne.", None),
        ("That is :jack:", None),
        (":jack: that is good", None),
        ("See www.ship.jack", None),
        ("Good evening \u2013 Anne!", "Anne"),
        ("Tell me: Anne?", "Anne"),
        ("What does Anne, the queen, say?", None),
        ("", None),
    ],
)
def test_whom_a_text_calls(text: str, expected: str | None) -> None:
    found = called_character(text, NAMES)
    assert (None if found is None else NAMES[found]) == expected
