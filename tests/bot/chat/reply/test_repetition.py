"""A reply that repeats itself is ended; what people ask for is not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chat.reply.repetition import KEPT_REPEATS, MIN_CHARS, RepetitionDetector, loop_at_end
from tests.bot.chat.chat_kit import MakeChat, say
from tests.fakes.engine import FakeEngine


def cut(text: str, size: int = 7) -> int | None:
    """Where the detector cuts a text that comes in pieces of this size."""
    detector = RepetitionDetector()
    for start in range(0, len(text), size):
        if (end := detector.push(text[start : start + size])) is not None:
            return end
    return None


words = st.text(st.characters(categories=["Ll", "Lu"]), min_size=1, max_size=8)
blocks = st.lists(words, min_size=1, max_size=40).map(" ".join).map(lambda block: block + " ")


@given(st.text(max_size=300), blocks, st.integers(1, 60))
def test_b14_a_block_of_words_again_and_again_is_cut_to_a_few(before: str, block: str, size: int) -> None:
    loop = block * (2 * MIN_CHARS // len(block) + 8)
    end = cut(before + loop, size)
    assert end is not None
    assert end <= len(before) + (KEPT_REPEATS + 2) * len(block)


@given(st.lists(blocks, min_size=1, max_size=200))
def test_b14_what_does_not_repeat_is_left_alone(parts: list[str]) -> None:
    text = "".join(f"{number}: {part}" for number, part in enumerate(parts))
    assert cut(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{number}. Buy milk\n" for number in range(600)),
        "".join(f"| row {number} | 0 | 0 |\n" for number in range(400)),
        "| --- | --- | --- |\n" * 300,
        "-" * 5000,
        " " * 9000,
        "/\\_" * 2000,
        "I must not talk in class.\n" * 100,
        "```python\n" + "    [0, 0, 0, 0, 0, 0],\n" * 400 + "```",
        "```\n" + "nop\n" * 1000 + "```\n",
        "".join(f"{a} times {b} is {a * b}\n" for a, b in itertools.product(range(1, 40), range(1, 10))),
        "ha" * 1000,
    ],
)
def test_b14_lists_tables_drawings_and_lines_to_write_are_left_alone(text: str) -> None:
    assert cut(text) is None


def test_b14_a_long_paragraph_in_a_loop_is_found() -> None:
    paragraph = " ".join(f"word{number}" for number in range(90)) + "\n\n"
    assert cut("To begin with. " + paragraph * 12) is not None
    assert loop_at_end(paragraph * 3) is None


async def test_b14_a_reply_that_repeats_itself_is_ended(make_chat: MakeChat, engine: FakeEngine) -> None:
    engine.reply("Well. ", *["I am a model. "] * 3000)
    reply = await say(make_chat(max_reply_tokens=4000), "one")
    assert reply.text == "Well. " + "I am a model. " * KEPT_REPEATS
    assert reply.finish_reason == "repetition"
    assert reply.remembered
    assert engine.requests[-1].cancelled or len(engine.requests) == 1


@pytest.mark.parametrize("loop", ["죄송합니다. 다시 말씀해 주세요. ", "".join(f"단어{n} " for n in range(35))])
async def test_a_loop_that_the_server_ended_is_cut_too(make_chat: MakeChat, engine: FakeEngine, loop: str) -> None:
    """The engine counts tokens, the bot characters: of Korean the engine has enough first."""
    num = 2700 // len(loop)
    assert loop_at_end(loop * num) is None
    engine.reply("그럼. ", *[loop] * num, finish_reason="repetition")
    reply = await say(make_chat(max_reply_tokens=4000), "one")
    assert reply.finish_reason == "repetition"
    assert reply.text.startswith("그럼. " + loop)
    assert reply.text.count(loop) in (KEPT_REPEATS, KEPT_REPEATS + 1)
