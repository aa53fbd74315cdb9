"""Events that came together: one piece, which knows how many it was, in the order in which they were sent."""

from __future__ import annotations

import pytest

from bot.engine_client.messages import Delta, Thinking
from bot.engine_client.stream.event_payload import Event
from bot.engine_client.stream.reasoning import ReasoningSplitter
from bot.engine_client.stream.reply_reader import ReplyReader
from bot.errors import EngineUnreadable


def event(**delta: object) -> Event:
    return {"choices": [{"delta": delta}]}


def test_texts_that_came_together_are_one_piece() -> None:
    reader = ReplyReader(ReasoningSplitter())
    together = [event(role="assistant"), None, event(content="one "), event(content="two "), event(content="three")]
    assert list(reader.read(together)) == [Delta("one two three", 3)]
    assert list(reader.read([None, event()])) == []


def test_thoughts_stay_in_their_place() -> None:
    reader = ReplyReader(ReasoningSplitter())
    together = [event(reasoning="hm"), event(content="a"), event(content="b"), event(reasoning="m"), event(content="c")]
    assert list(reader.read(together)) == [Thinking(2), Delta("ab", 2), Thinking(1), Delta("c")]


def test_a_thought_in_the_text_is_counted_as_well() -> None:
    reader = ReplyReader(ReasoningSplitter())
    together = [event(content=piece) for piece in ("<think>", "hm", "</think>", "yes")]
    assert list(reader.read(together)) == [Thinking(len("<think>hm</think>"), count=3), Delta("yes")]


def test_what_came_before_an_unreadable_event_is_kept() -> None:
    reader = ReplyReader(ReasoningSplitter())
    pieces = reader.read([event(content="half "), event(content="a reply"), event(content=5)])
    assert next(pieces) == Delta("half a reply", 2)
    with pytest.raises(EngineUnreadable):
        next(pieces)
