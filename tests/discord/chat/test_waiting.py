"""A message that waits for its first token says its place in line, is replaced by its reply, and can be stopped."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.discord.delivery.delivery_kit import recorded
from tests.discord.harness import World, world
from tests.fakes.discord.server import Message
from tests.fakes.engine import Request, Script
from tests.selection import SQLITE

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOST_PLACE = "I was restarted before I came to your message. Please ask again."
WORDS = tuple(f"word{number} " for number in range(20))
WAITING = re.compile(
    r"-# ⏳ (\d+)(?:st|nd|rd|th) in line(, after your earlier message)?(, about \d+ s|, a few seconds)?"
)


@asynccontextmanager
async def one_at_a_time(here: World, pace: float) -> AsyncIterator[None]:
    """The engine writes one reply of twenty words after the other."""
    usual: Callable[[Request], Script] = here.engine.default
    here.engine.limit(1)
    here.engine.default = lambda request: Script(deltas=WORDS, pace=pace)
    try:
        yield
    finally:
        here.engine.default = usual
        here.engine.limit(None)


def full(answer: Message) -> bool:
    return answer.content.endswith("word19")


def statuses(answer: Message) -> list[tuple[float, str]]:
    return [(at, text) for at, text in answer.edits if "⏳" in text]


def first_words(answer: Message) -> float:
    """When the first words of the reply were shown."""
    return next(at for at, text in answer.edits if "word" in text)


async def waiting(here: World, question: Message) -> Message:
    """The message that says that the question waits."""
    await here.discord.until(lambda: any(statuses(each) for each in here.discord.answers(question)))
    return here.discord.answers(question)[0]


async def test_a_waiting_message_shows_its_place_and_time_and_then_its_reply(here: World) -> None:
    guild, ann = await here.member()
    bob, cid = here.discord.user("bob"), here.discord.user("cid")
    async with one_at_a_time(here, 0.15):
        await here.ask(guild, here.discord.user("dan"), "measured")
        begun = len(here.engine.requests)
        first = await here.mention(guild, ann, "one")
        await here.engine.arrived(begun + 1)
        second = await here.discord.chat(guild, bob, "two")
        await here.engine.arrived(begun + 2)
        asked_at = time.time()
        third = await here.mention(guild, cid, "three")
        [answer] = await here.discord.answered(third, timeout=30)
    [chat] = second.messages()
    [running] = here.discord.answers(first)
    assert not statuses(running)
    assert [full(each) for each in (running, chat, answer)] == [True, True, True]
    assert chat.content.startswith("> two\nword0")

    # /chat: the deferred response itself, below the quoted question.
    shown = WAITING.fullmatch(statuses(chat)[0][1].removeprefix("> two\n"))
    assert shown, statuses(chat)
    assert shown[1] == "1"
    # The third message: replied to after two seconds, second in line and then first.
    at, text = statuses(answer)[0]
    assert 1.9 < at - asked_at < 3.5
    shown = WAITING.fullmatch(text)
    assert shown, text
    assert (shown[1], shown[2]) == ("2", None)
    seconds = re.search(r"\d+ s", shown[3] or "")
    assert seconds, text
    left = here.engine.requests[begun + 2].first_token_at - at
    assert left * 0.5 - 1 < float(seconds[0].removesuffix(" s")) < left * 1.6 + 2
    times = [at for at, _ in statuses(answer)]
    assert all(later - earlier >= 4.9 for earlier, later in itertools.pairwise(times))
    for question, request in ((chat, here.engine.requests[begun + 1]), (answer, here.engine.requests[begun + 2])):
        assert first_words(question) - request.first_token_at < 1.0


async def test_first_words_come_at_once_although_the_place_was_just_shown(here: World) -> None:
    guild, ann = await here.member()
    async with one_at_a_time(here, 0.01):
        begun = len(here.engine.requests)
        here.engine.hang("held ")
        await here.mention(guild, ann, "one")
        await here.engine.arrived(begun + 1)
        question = await here.mention(guild, here.discord.user("bob"), "two")
        answer = await waiting(here, question)
        here.engine.release()
        await here.discord.until(lambda: full(answer))
    shown_at = statuses(answer)[-1][0]
    assert first_words(answer) - here.engine.requests[begun + 1].first_token_at < 1.0
    assert first_words(answer) - shown_at < 1.5


async def test_a_message_behind_ones_own_says_so_and_is_stopped_in_the_queue(here: World) -> None:
    guild, ann = await here.member()
    begun = len(here.engine.requests)
    here.engine.hang("First ")
    first = await here.mention(guild, ann, "one")
    await here.engine.arrived(begun + 1)
    second = await here.mention(guild, ann, "two")
    third = await here.discord.chat(guild, ann, "three")
    answer = await waiting(here, second)
    assert "after your earlier message" in answer.content
    await here.discord.until(lambda: "⏳ 2nd in line" in third.reply())
    await here.discord.press(answer, here.discord.user("mallory"), label="Stop")
    await here.discord.press(answer, ann, label="Stop")
    await here.discord.until(lambda: answer.content == "Stopped.")
    assert not answer.buttons()
    [response] = third.messages()
    await here.discord.react(response, ann, "❌")
    await here.discord.until(lambda: response.content == "> three\nStopped.")
    here.engine.release()
    [running] = await here.discord.answered(first)
    assert running.content == "First"
    assert len(here.engine.requests) == begun + 1  # nothing was generated for the others
    await here.ask(guild, ann, "And?")
    assert "two" not in str(here.engine.requests[-1].messages)


async def test_a_message_is_stopped_while_the_engine_has_it_in_line(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    async with one_at_a_time(here, 0.01):
        begun = len(here.engine.requests)
        here.engine.hang("held ")
        await here.mention(guild, ann, "one")
        await here.engine.arrived(begun + 1)
        question = await here.mention(guild, bob, "two")
        answer = await waiting(here, question)
        await here.discord.press(answer, bob, label="Stop")
        await here.discord.until(lambda: answer.content == "Stopped.")
        await here.engine.cancelled(begun + 1)
        here.engine.release()
        again = await here.ask(guild, bob, "three")
    assert here.engine.requests[begun + 1].first_token_at == 0
    assert full(again.messages()[0])
    assert "two" not in str(here.engine.requests[-1].messages)


async def test_a_stopped_regeneration_leaves_the_reply_that_was_there(here: World) -> None:
    guild, ann = await here.member()
    [message] = (await here.ask(guild, ann, "Hi")).messages()
    assert message.content == "> Hi\nYou said: Hi"
    labels = [button.get("label") for button in message.buttons()]
    async with one_at_a_time(here, 0.01):
        begun = len(here.engine.requests)
        here.engine.hang("held ")
        await here.discord.chat(guild, here.discord.user("bob"), "one")
        await here.engine.arrived(begun + 1)
        await here.discord.press(message, ann, label="Regenerate")
        await here.discord.until(lambda: "⏳" in message.content)
        await here.discord.press(message, ann, label="Stop")
        await here.discord.until(lambda: message.content == "> Hi\nYou said: Hi" and not message.runs())
        here.engine.release()
    assert [button.get("label") for button in message.buttons()] == labels


async def test_a_deleted_question_leaves_the_queue_and_its_place_in_line_is_deleted(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("First ")
    begun = len(here.engine.requests)
    first = await here.mention(guild, ann, "one")
    await here.engine.arrived(begun + 1)
    second = await here.mention(guild, ann, "two")
    await waiting(here, second)
    await here.discord.delete(second)
    await here.discord.until(lambda: not here.discord.answers(second))
    here.engine.release()
    await here.discord.answered(first)
    await asyncio.sleep(0.3)
    assert len(here.engine.requests) == begun + 1


@SQLITE
async def test_a_place_in_line_does_not_outlive_a_killed_process(database_url: str, tmp_path: Path) -> None:
    """Some wait behind their own message, whose turns are not begun; one behind others; one for another reply."""
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        [old] = (await here.ask(guild, ann, "Old")).messages()
        begun = len(here.engine.requests)
        here.engine.hang("First ")
        await here.mention(guild, ann, "one")
        await here.engine.arrived(begun + 1)
        second = await here.mention(guild, ann, "two")
        third = await here.discord.chat(guild, ann, "three")
        alone = await here.discord.chat(guild, ann, "four", private=True)
        await here.discord.press(old, ann, label="Regenerate")
        await here.discord.until(lambda: all("⏳" in each for each in (third.reply(), alone.reply(), old.content)))
        answer = await waiting(here, second)
        await here.bot.kill()
        here.engine.release()
        await here.start_bot()
        for message in (answer, third.messages()[0], alone.messages()[0]):
            await here.discord.until(lambda message=message: message.content == LOST_PLACE)
            assert not message.buttons()
        await here.discord.until(lambda: old.content == "> Old\nYou said: Old" and bool(old.buttons()))
        assert len(here.discord.answers(second)) == len(third.messages()) == len(alone.messages()) == 1
        await recorded(database_url)
        # One that was answered or stopped in time leaves nothing behind for a later start.
        here.engine.hang("Second ")
        await here.mention(guild, ann, "five")
        await here.engine.arrived(begun + 2)
        sixth = await here.mention(guild, ann, "six")
        stopped = await waiting(here, sixth)
        await here.discord.press(stopped, ann, label="Stop")
        await here.discord.until(lambda: stopped.content == "Stopped.")
        seventh = await here.mention(guild, ann, "seven")
        await waiting(here, seventh)
        here.engine.release()
        [answered] = await here.discord.answered(seventh)
        await recorded(database_url)
        await here.bot.kill()
        await here.start_bot()
        await here.ask(guild, ann, "Done?")
        assert (stopped.content, answered.content) == ("Stopped.", "You said: seven")
