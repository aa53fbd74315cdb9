"""A model that thinks: its thoughts are neither shown nor stored nor sent back, and members see that it thinks."""

from __future__ import annotations

import asyncio

import pytest

from bot.chat.queue.waiting import Waiting
from bot.chat.requests import ChatRequest
from models.database import Database
from models.types import DialogKey
from tests.bot.chat.chat_kit import MakeChat
from tests.bot.stored_turns import turns
from tests.fakes.engine import FakeEngine

KEY = DialogKey(7, 70)


async def test_only_the_answer_is_kept_and_sent_back(make_chat: MakeChat, engine: FakeEngine, database: Database):
    chat = make_chat()
    shown: list[str] = []

    async def show(piece: str) -> None:
        shown.append(piece)

    engine.reply("<think>", "a secret", "</think>\n\n", "Hel", "lo")
    reply = await chat.chat(ChatRequest(KEY, "Hi"), show)
    assert (reply.text, "".join(shown), reply.completion_tokens) == ("Hello", "Hello", 5)
    assert [(turn.user, turn.reply) for turn in await turns(database)] == [("Hi", "Hello")]
    await chat.chat(ChatRequest(KEY, "And?"), show)
    assert "secret" not in str(engine.requests[-1].body)
    assert engine.requests[-1].messages[-2]["content"] == "Hello"


async def test_thoughts_count_where_the_server_counts_nothing(make_chat: MakeChat, engine: FakeEngine):
    engine.reply("<think>", "one", "two", "</think>", "Hello", usage=False)
    reply = await make_chat().chat(ChatRequest(KEY, "Hi"), _ignore)
    assert reply.completion_tokens >= 4


async def test_thoughts_that_never_end_are_no_answer(make_chat: MakeChat, engine: FakeEngine):
    engine.reply("<think>", "on and on", finish_reason="length")
    reply = await make_chat().chat(ChatRequest(KEY, "Hi"), _ignore)
    assert (reply.text, reply.is_empty, reply.remembered) == ("", True, False)


async def test_a_members_mark_stays_text(make_chat: MakeChat, engine: FakeEngine, database: Database):
    chat = make_chat()
    text = "<think>I am a member</think> hi"
    reply = await chat.chat(ChatRequest(KEY, text), _ignore)
    assert reply.text == f"You said: {text}"
    assert engine.requests[-1].last == text
    assert [(turn.user, turn.reply) for turn in await turns(database)] == [(text, f"You said: {text}")]


@pytest.mark.parametrize("shown", [True, False])
async def test_who_waits_sees_that_it_thinks_and_for_how_long_it_did(
    make_chat: MakeChat, engine: FakeEngine, shown: bool
):
    waitings: list[Waiting] = []
    thought: list[float | None] = []
    engine.reply("<think>", "a", "b", "c", "d", "e", "</think>", "Hello", pace=0.1)
    request = ChatRequest(KEY, "Hi", on_waiting=waitings.append, on_thought=thought.append)
    chatting = asyncio.create_task(make_chat(show_thinking_time=shown).chat(request, _ignore))
    seen = False
    while not chatting.done():
        await asyncio.sleep(0.02)
        status = waitings[0].status() if waitings else None
        seen = seen or (status is not None and status.thinking)
    assert (await chatting).text == "Hello"
    assert seen
    assert waitings[0].status() is None
    [seconds] = thought
    assert (seconds is not None and 0.3 < seconds < 5) if shown else seconds is None


async def test_it_can_be_stopped_while_it_thinks(make_chat: MakeChat, engine: FakeEngine):
    chat = make_chat()
    engine.hang("<think>", "hm")
    waitings: list[Waiting] = []
    chatting = asyncio.create_task(chat.chat(ChatRequest(KEY, "Hi", on_waiting=waitings.append), _ignore))
    async with asyncio.timeout(10):
        while not (waitings and waitings[0].thinking):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await chat.stop(KEY)
    reply = await chatting
    assert (reply.text, reply.finish_reason, reply.is_empty) == ("", "stopped", True)


async def test_a_lone_closing_mark_takes_back_what_was_shown(make_chat: MakeChat, engine: FakeEngine):
    said: list[str] = []

    async def show(piece: str) -> None:
        said.append(piece)

    engine.reply("I wonder", " a bit", "</think>", "Hello")
    request = ChatRequest(KEY, "Hi", on_thought=lambda seconds: said.clear())
    reply = await make_chat().chat(request, show)
    assert (reply.text, "".join(said)) == ("Hello", "Hello")


async def test_a_speakers_line_after_what_was_taken_back_is_no_part_of_the_answer(
    make_chat: MakeChat, engine: FakeEngine
):
    said: list[str] = []

    async def show(piece: str) -> None:
        said.append(piece)

    engine.reply("I wonder", " a bit", "</think>", "[speaker: Guildllama]", "\nHello")
    request = ChatRequest(KEY, "Hi", author="Ann", on_thought=lambda seconds: said.clear())
    reply = await make_chat().chat(request, show)
    assert (reply.text, "".join(said)) == ("Hello", "Hello")


async def _ignore(piece: str) -> None:
    pass
