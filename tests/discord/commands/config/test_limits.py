"""Limits through the bot: refusals say which limit it is and when it returns, /quota and /queue tell the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.discord.commands.command_kit import audited
from tests.discord.harness import World
from tests.fakes.discord.server import Guild, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"

CONSTANTS = {"bot.chat.queue.sending._PATIENCE": 60.0}
"""The bot never takes the engine for one that is only slow to begin."""
RETURNS = re.compile(r"<t:\d+:R>")


@asynccontextmanager
async def holding(here: World, guild: Guild, users: list[User]) -> AsyncIterator[None]:
    """These members have a reply each that does not go on."""
    begun = len(here.engine.requests)
    for user in users:
        here.engine.hang("held ")
        await here.mention(guild, user, "hold")
    await asyncio.wait_for(here.engine.arrived(begun + len(users)), 20)
    try:
        yield
    finally:
        here.engine.release()
        await here.discord.until(lambda: here.engine.running == 0)


async def test_messages_a_minute_are_limited_and_every_way_to_ask_counts(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    saved = await here.use(guild, boss, "config limits set", minute_messages=2)
    assert "`limits minute_messages` **2** (chosen; 30 is the default and the most)" in saved.reply()
    ann = here.discord.user("ann")
    first = await here.ask(guild, ann, "One")
    again = await here.discord.press(first.messages()[0], ann, "Regenerate")
    await here.discord.done(again)
    await here.discord.until(lambda: len(here.engine.requests) >= 2 and here.engine.running == 0)
    asked = len(here.engine.requests)
    refused = await here.ask(guild, ann, "Two")
    [answer] = refused.messages()
    assert answer.ephemeral
    assert "you can send me 2 messages a minute" in answer.content
    assert RETURNS.search(answer.content)
    assert "error" not in answer.content
    # A mention gets one reply a minute, however many come.
    mentions = [await here.mention(guild, ann, f"Hello {number}") for number in range(4)]
    [said] = await here.discord.answered(mentions[0])
    assert "2 messages a minute" in said.content
    assert len(here.engine.requests) == asked
    quota = await here.use(guild, ann, "quota")
    assert "this minute: 0 of 2 messages, all again <t:" in quota.reply()
    assert "All members" not in quota.reply()
    assert (await here.ask(guild, boss, "Mine")).reply() == "You said: Mine"
    assert [len(here.discord.answers(each)) for each in mentions] == [1, 0, 0, 0]
    everybody = await here.use(guild, boss, "quota")
    assert "**All members together** have left here:" in everybody.reply()
    assert "of 600 messages" in everybody.reply()
    await here.use(guild, boss, "config reset", setting="limits")
    assert (await here.ask(guild, ann, "Free")).reply() == "You said: Free"
    assert "limits minute_messages` **30** (the default)" in (await here.use(guild, boss, "config show")).reply()
    assert {record.action for record in await audited(here, guild)} == {"config.set"}


async def test_the_best_role_counts_and_managers_are_not_exempt(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    friends = here.discord.role(guild, "friends", boss)
    above = await here.use(guild, boss, "config limits role", role=friends, minute_messages=31)
    assert "`minute_messages` can be 30 at most" in above.reply()
    await here.use(guild, boss, "config limits set", minute_messages=1)
    await here.ask(guild, boss, "One")
    assert "1 message a minute" in (await here.ask(guild, boss, "Two")).reply()
    shown = await here.use(guild, boss, "config limits role", role=friends, minute_messages=3, daily_tokens=100)
    assert f"`limits role` for members with a role: <@&{friends.id}> minute_messages 3, daily_tokens 100" in (
        shown.reply()
    )
    assert (await here.ask(guild, boss, "Two")).reply() == "You said: Two"
    quota = (await here.use(guild, boss, "quota")).reply()
    assert "of 100 tokens, all again <t:" in quota
    none = await here.use(guild, boss, "config limits role", role=friends)
    assert "limits role" not in none.reply()


async def test_a_guilds_day_is_limited_as_a_whole(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    await here.use(guild, boss, "config limits set", guild_daily_messages=2)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    first = await here.ask(guild, ann, "One")
    again = await here.discord.press(first.messages()[0], ann, "Regenerate")
    await here.discord.done(again)

    async def used_up() -> bool:
        return "today: 0 of 2 messages" in (await here.use(guild, boss, "quota")).reply()

    await here.until(used_up)
    refused = await here.ask(guild, bob, "Two")
    assert "all members of this guild together have 2 messages a day" in refused.reply()
    assert "00:00 UTC" in refused.reply()
    other, cid = await here.member("cid")
    assert (await here.ask(other, cid, "Here")).reply() == "You said: Here"


async def test_more_replies_at_once_wait_and_the_queue_tells_and_cancels(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    await here.use(guild, boss, "config limits set", running_replies=1)
    await here.use(guild, boss, "config set", scope="member-channel")
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    there = here.discord.channel(guild, "there")
    await here.discord.join(guild)
    empty = await here.use(guild, ann, "queue")
    assert "None of your messages waits" in empty.reply()
    async with holding(here, guild, [ann]):
        asked = len(here.engine.requests)
        second = await here.mention(there, ann, "second")
        assert (await here.ask(there, bob, "mine")).reply() == "You said: mine"  # others do not wait for her

        async def waits() -> bool:
            return "1 of your messages waits here:" in (await here.use(guild, ann, "queue")).reply()

        await here.until(waits)
        assert len(here.engine.requests) == asked + 1
        listed = await here.use(guild, ann, "queue")
        assert re.search(r"message 1, sent <t:\d+:R>: 1st in line.*\n1 message waits in all\.", listed.reply())
        assert "None of your messages" in (await here.use(guild, bob, "queue")).reply()
        cancelled = await here.discord.press(listed.messages()[0], ann, "Cancel message 1")
        await here.discord.done(cancelled)
        [stopped] = await here.discord.answered(second)
        assert "Stopped" in stopped.content
        await here.discord.until(lambda: "None of your messages" in listed.messages()[0].content)
    assert len(here.engine.requests) == asked + 1


async def test_a_forged_cancel_stops_nothing_of_others(both: World) -> None:
    here = both
    guild, _ = await here.member("boss", manager=True)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    async with holding(here, guild, [ann]):
        waiting = await here.mention(guild, ann, "mine")
        mine = await here.use(guild, bob, "queue")
        forged = await here.discord.force_component(mine.messages()[0], bob, f"queue:cancel:{waiting.id}")
        await here.discord.done(forged)
        assert not any("Stopped" in each.content for each in here.discord.answers(waiting))
    [answer] = await here.discord.answered(waiting)
    assert answer.content == "You said: mine"


async def test_a_flood_of_one_guild_keeps_another_guilds_message_waiting_for_one_reply_at_most(both: World) -> None:
    """The engine writes one reply at a time, in order of arrival, as many servers do."""
    here = both
    guild, _ = await here.member("boss")
    quiet, ann = await here.member("ann")
    here.engine.limit(1)
    begun = len(here.engine.requests)
    try:
        here.engine.hang("held ")
        people = [here.discord.user(f"m{number}") for number in range(60)]
        flood = [await here.discord.chat(guild, person, f"flood {index}") for index, person in enumerate(people)]
        await asyncio.wait_for(here.engine.arrived(begun + 1), 20)
        question = await here.mention(quiet, ann, "alone")
        await here.discord.until(lambda: any(each.last == "alone" for each in here.engine.requests[begun:]))
        ahead = [each.last for each in here.engine.requests[begun:]].index("alone")
    finally:
        here.engine.release()
        here.engine.limit(None)
    [answer] = await here.discord.answered(question, timeout=30)
    assert answer.content == "You said: alone"
    await here.discord.done(*flood, timeout=60)
    assert ahead <= 3, "the one that is written, and as many as earlier tests have seen written at once: two"
