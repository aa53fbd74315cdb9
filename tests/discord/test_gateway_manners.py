"""Events that Discord sends twice act once, and the gateway gets its heartbeats whatever the bot is busy with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.discord.harness import World, world
from tests.fakes.discord.server import FakeDiscord
from tests.fakes.engine import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def replayed(here: World, num_events: int) -> AsyncIterator[None]:
    """After the block the connection breaks, and the RESUME replays so many events that the bot had handled."""
    yield
    gateway = here.discord.gateway
    session = gateway.connected[0]
    resumes = session.num_resumes
    gateway.num_replayed_again = num_events
    try:
        await gateway.close(4000)
        await here.discord.until(lambda: session.num_resumes > resumes, timeout=20)
        await asyncio.sleep(1.0)
    finally:
        gateway.num_replayed_again = 0


async def test_b17_messages_that_are_sent_again_after_a_resume_are_answered_once(here: World) -> None:
    guild, ann = await here.member()
    requests = len(here.engine.requests)
    async with replayed(here, 12):
        asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> once")
        await here.discord.answered(asked)
        direct = await here.discord.say(ann, ann, "and once in private")
        await here.discord.answered(direct)
    assert len(here.discord.answers(asked)) == 1
    assert len(here.discord.answers(direct)) == 1
    assert len(here.engine.requests) == requests + 2
    assert "was handled before" in here.bot.log()


async def test_b17_reactions_that_are_sent_again_act_once(here: World) -> None:
    guild, ann = await here.member()
    asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> Hi")
    [reply] = await here.discord.answered(asked)
    requests = len(here.engine.requests)
    async with replayed(here, 20):
        # Taken away and given again, it acts again; sent again by Discord, neither does.
        for number in (1, 2):
            here.engine.reply(f"Reply {number}.")
            await here.discord.react(reply, ann, "🔁")
            await here.discord.until(lambda text=f"Reply {number}.": reply.content == text and not reply.runs())
            await here.discord.unreact(reply, ann, "🔁")
    assert len(here.engine.requests) == requests + 2
    assert reply.content == "Reply 2."


async def test_b17_a_reaction_that_is_sent_again_with_a_new_number_acts_once(here: World) -> None:
    guild, ann = await here.member()
    asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> Hi")
    [reply] = await here.discord.answered(asked)
    requests = len(here.engine.requests)
    here.engine.reply("Another.")
    await here.discord.react(reply, ann, "🔁")
    await here.discord.until(lambda: reply.content == "Another." and not reply.runs())
    [session] = here.discord.gateway.connected
    event = next(each for each in reversed(session.sent) if each["t"] == "MESSAGE_REACTION_ADD")
    await session.dispatch("MESSAGE_REACTION_ADD", event["d"])
    await asyncio.sleep(0.5)
    assert len(here.engine.requests) == requests + 1


async def test_b17_a_press_of_a_button_that_is_sent_again_acts_once(here: World) -> None:
    guild, ann = await here.member()
    asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> Hi")
    [reply] = await here.discord.answered(asked)
    requests = len(here.engine.requests)
    async with replayed(here, 12):
        here.engine.reply("Another.")
        pressed = await here.discord.press(reply, ann, label="Regenerate")
        await here.discord.until(lambda: reply.content == "Another." and not reply.runs())
        await here.discord.repeat(pressed)
    assert len(here.engine.requests) == requests + 1
    assert len(here.discord.sent("POST", f"/interactions/{pressed.id}/")) == 1


async def test_b11_heartbeats_go_on_while_replies_are_written(sqlite_url: str, tmp_path: Path) -> None:
    """Of a generation that takes several heartbeats, none is missed; a real one takes 60 s and beats every 41."""

    def often(discord: FakeDiscord) -> None:
        discord.gateway.heartbeat_interval = 1.5

    async with world(sqlite_url, tmp_path, before=often) as here:
        guild, ann = await here.member()
        here.engine.default = lambda request: Script(deltas=("word ",) * 400, pace=0.01)
        [session] = here.discord.gateway.connected
        beats = session.num_heartbeats
        started = asyncio.get_running_loop().time()
        asked = [await here.discord.chat(guild, user, "Long") for user in (ann, here.discord.user("bob"))]
        await here.discord.done(*asked, timeout=60)
        seconds = asyncio.get_running_loop().time() - started
        assert seconds > 4
        assert session.num_heartbeats - beats >= int(seconds / 1.6)  # whole intervals, each a little longer than 1.5 s
        assert here.discord.gateway.num_zombies == 0
        assert here.discord.gateway.num_identifies == 1
        assert session.num_resumes == 0
