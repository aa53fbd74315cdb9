"""Discord fails while a reply of several messages is delivered, and the bot lives: each chunk is shown exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.discord.delivery.delivery_kit import Replies, ask, recorded, shown_in_full, unlimited
from tests.discord.harness import World, world
from tests.selection import diagonal

pytestmark = pytest.mark.asyncio(loop_scope="module")
AGAIN = "\N{CLOCKWISE RIGHTWARDS AND LEFTWARDS OPEN CIRCLE ARROWS}"


@pytest_asyncio.fixture(loop_scope="module")
async def here(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(sqlite_url, tmp_path, before=unlimited) as started:
        yield started


FAULTS: dict[str, dict[str, Any]] = {
    "rate limit": {"retry_after": 0.3},
    "server errors": {"status": 500, "times": 2},
    "unavailable": {"status": 503},
    "lost request": {"lose": "request"},
    "lost answer": {"lose": "response"},
    "done, and an error said": {"lose": "answer", "status": 502},
}


@pytest.mark.parametrize(("fault", "place"), diagonal(FAULTS, ["chat", "private", "mention"]))
async def test_b13_a_fault_at_any_chunk(here: World, place: str, fault: str) -> None:
    path = r"/channels/\d+/messages$" if place == "mention" else "/webhooks/"
    # discord.py waits for seconds after a server error
    for number, skip in enumerate((2,) if fault == "server errors" else (0, 2, 3)):
        here.discord.rest.faults.clear()
        here.discord.fail("POST", path, skip=skip, **FAULTS[fault])
        if number == 0 and place != "mention":
            here.discord.fail("PATCH", path, **FAULTS[fault])
        asked = await ask(here, Replies(here), place, f"Tell me {number}")
        await shown_in_full(here, here.database_url, asked)
        strays = len(asked.discord_messages()) - len(asked.messages())
        assert strays <= (1 if place == "private" else 0), "an ephemeral message cannot be looked for"


async def test_a_channel_that_refuses_is_left_alone_and_the_asker_gets_the_answer(here: World) -> None:
    replies = Replies(here)
    first = await ask(here, replies, "mention", "One")
    await shown_in_full(here, here.database_url, first)
    assert first.guild
    first.guild.channel.bot_may_send = False
    replies.replies["Two"] = "Two for you."
    asked = await here.discord.say(first.guild, first.user, f"<@{here.discord.bot.id}> Two")
    await here.discord.until(lambda: "Two for you." in first.texts())
    [direct] = here.discord.posts(first.user)
    assert direct.content == f"-# I may not write in <#{first.guild.channel.id}>, so I answer here.\nTwo for you."
    assert here.discord.answers(asked) == []
    await recorded(here.database_url)
    refused = len(here.discord.sent("POST", f"/channels/{first.guild.channel.id}/", ok=False))
    replies.replies["Three"] = "Three for you."
    await here.discord.say(first.guild, first.user, f"<@{here.discord.bot.id}> Three")
    await here.discord.until(lambda: any("Three for you." in text for text in first.texts()))
    assert len(here.discord.sent("POST", f"/channels/{first.guild.channel.id}/", ok=False)) == refused <= 2


async def test_a_reply_that_no_one_takes_is_given_up(here: World) -> None:
    replies = Replies(here)
    guild, ann = await here.member()
    guild.channel.bot_may_send = False
    ann.dms_open = False
    replies.replies["One"] = "One for you."
    await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> One")
    await here.discord.until(lambda: "a finished reply could not be delivered" in here.bot.log())
    await recorded(here.database_url)


async def test_b30_an_archived_thread_is_opened_again_for_an_edit(here: World) -> None:
    guild, ann = await here.member()
    thread = await here.discord.thread(guild.channel, "talk", user=ann)
    here.engine.reply("First.")
    question = await here.discord.say(thread, ann, f"<@{here.discord.bot.id}> Hi")
    [answer] = await here.discord.answered(question)
    await recorded(here.database_url)
    await here.discord.archive(thread)
    here.engine.reply("Second.")
    await here.discord.react(answer, ann, AGAIN)
    await here.discord.until(lambda: answer.content == "Second." and not answer.runs())
    assert not thread.archived


async def test_a_message_deleted_between_two_chunks_ends_the_delivery(here: World) -> None:
    replies = Replies(here)
    here.discord.fail("POST", "/messages", times=99, delay=0.15)
    replies.hangs = True
    asked = await ask(here, replies, "mention", "Tell me")
    await here.discord.until(lambda: len(asked.texts()) == 2)
    await here.discord.delete(asked.messages()[1])
    here.engine.release()
    await here.discord.until(lambda: "no final text" in here.bot.log())
    await recorded(here.database_url)
    shown = asked.texts()
    await here.bot.kill()
    await here.discord.until(lambda: not here.discord.gateway.connected)
    await here.start_bot()
    await asyncio.sleep(1.5)
    assert asked.texts() == shown


@pytest.mark.long  # the rule in short: a fault at any chunk, above, and tests/models/test_deliveries.py
async def test_discord_away_for_a_while_and_two_processes(here: World) -> None:
    """What could not be shown is left, and one of the processes shows it: once."""
    await here.start_bot()
    replies = Replies(here)
    here.discord.fail("POST", "/messages$|/webhooks", times=10_000, skip=4, status=503)
    asked = [await ask(here, replies, place, f"Tell me {place}") for place in ("chat", "mention")]
    await asyncio.sleep(9)
    assert not all(each.complete() for each in asked)
    here.discord.rest.faults.clear()
    await shown_in_full(here, here.database_url, *asked)
    await asyncio.sleep(1)
    for each in asked:
        each.check()


async def test_b34_a_token_that_is_revoked_ends_the_bot(here: World) -> None:
    guild, ann = await here.member()
    await here.ask(guild, ann, "Hi")
    here.discord.rest.token = "revoked"
    await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> And now?")
    await here.bot.wait()
    assert "GUILDLLAMA_DISCORD_TOKEN: was refused by Discord" in here.bot.log()
    assert len([each for each in here.discord.rest.requests if each.status == 401]) < 10


async def test_b34_a_single_401_stops_nothing(here: World) -> None:
    guild, ann = await here.member()
    here.discord.fail("POST", "/typing", status=401)
    question = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> Hi")
    [answer] = await here.discord.answered(question)
    assert answer.content == "You said: Hi"
