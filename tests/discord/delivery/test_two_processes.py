"""Two bot processes of one application on one database: every Stop lands, and what a dead process left is ended.

The fake Discord sends an interaction to every session, or to one of them alone. A process with `host` believes that it
runs on another host, whose processes cannot be seen from here; two hosts share a Postgres database only. With
CLEANUP_INTERVAL=1s a process counts as alive for 4 s instead of 60.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.discord.delivery.delivery_kit import PLACES, Replies, ask_in, long_reply, recorded, unlimited
from tests.discord.delivery.test_crash import INTERRUPTED, stored
from tests.discord.harness import World, bot_database, world
from tests.fakes.discord.server import Guild, Interaction, User
from tests.fakes.engine import Script
from tests.postgres import Postgres
from tests.selection import POSTGRES, SQLITE

LEASE = 4.0  # seconds
SOON = {"CLEANUP_INTERVAL": "1s", "constants": {"bot.cogs.unfinished_replies._INTERVAL": 0.5}}
DEADLINE = 1.5
"""Seconds from a click until the engine's request is cancelled: one interval of the poller, and a busy machine."""


async def talking(here: World, guild: Guild, user: User, *, command: str = "chat") -> Interaction:
    """A reply that hangs, with its Stop button."""
    here.engine.hang("So far")
    if command == "chat":
        asked = await here.discord.chat(guild, user, "Talk")
    else:
        asked = await here.discord.command(guild, user, command)
    await here.discord.until(lambda: asked.messages() and asked.messages()[0].buttons())
    return asked


async def stop_and_time(here: World, asked: Interaction) -> float:
    """Click Stop; return the seconds until the engine's request was cancelled."""
    generation = here.engine.requests[-1]
    at = time.monotonic()
    clicked = await here.discord.click(asked.messages()[0], asked.user, label="Stop")
    await here.discord.until(lambda: generation.cancelled, timeout=10)
    took = time.monotonic() - at
    await here.discord.done(asked)
    assert asked.reply() == "So far"
    assert not asked.messages()[0].runs()
    await here.discord.until(lambda: clicked.callback_type is not None)
    assert clicked.followups == []
    return took


@POSTGRES
async def test_attack_every_stop_lands_in_whichever_process(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        await here.start_bot()
        sessions = here.discord.gateway.connected
        guild, ann = await here.member()
        took = []
        for number in range(6):
            here.discord.gateway.interaction_receivers = [sessions[number % 2]]
            asked = await talking(here, guild, ann)
            # To the other process alone; to the same one alone; to both, as Discord's gateway does.
            receivers = ([sessions[1 - number % 2]], [sessions[number % 2]], None)[number // 2]
            here.discord.gateway.interaction_receivers = receivers
            took.append(await stop_and_time(here, asked))
        assert max(took) < DEADLINE, took
        turns = await stored(database_url)
        assert [turn.reply for found in turns.values() for turn in found] == ["So far"] * 6
        for bot in here.bots:
            assert "Traceback" not in bot.log()


@SQLITE
async def test_attack_stop_of_a_regeneration_and_of_a_member_who_opted_out(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        await here.start_bot()
        writer, other = ([session] for session in here.discord.gateway.connected)
        guild, ann = await here.member()
        here.discord.gateway.interaction_receivers = writer
        await here.ask(guild, ann, "Hello")
        again = await talking(here, guild, ann, command="regenerate")
        here.discord.gateway.interaction_receivers = other
        assert await stop_and_time(here, again) < DEADLINE

        await here.use(guild, ann, "privacy optout")
        here.discord.gateway.interaction_receivers = writer
        forgotten = await talking(here, guild, ann)
        here.discord.gateway.interaction_receivers = other
        assert await stop_and_time(here, forgotten) < DEADLINE


@POSTGRES
async def test_attack_a_click_too_late_in_another_process_is_answered(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, constants={"bot.chat.stop_requests.ANSWER_TIMEOUT": 0.5}) as here:
        await here.start_bot()
        writer, other = ([session] for session in here.discord.gateway.connected)
        guild, ann = await here.member()
        here.discord.gateway.interaction_receivers = writer
        asked = await talking(here, guild, ann)
        message = asked.messages()[0]
        buttons = message.components
        here.engine.release()
        await here.discord.done(asked)
        message.components = buttons  # as a client shows it that has not received the last edit yet
        for receivers in (other, writer, None):
            here.discord.gateway.interaction_receivers = receivers
            message.components = buttons
            clicked = await here.discord.click(message, ann)
            await here.discord.until(lambda: clicked.followups)  # noqa: B023
            assert "not writing" in clicked.followups[0].content
            assert clicked.followups[0].ephemeral
            assert message.components == []
            assert asked.reply() == "So far"


@SQLITE
async def test_attack_a_stranger_cannot_stop_it_through_another_process(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        await here.start_bot()
        writer, other = ([session] for session in here.discord.gateway.connected)
        guild, ann = await here.member()
        bob = here.discord.user("bob")
        here.discord.gateway.interaction_receivers = writer
        asked = await talking(here, guild, ann)
        here.discord.gateway.interaction_receivers = other
        refused = await here.discord.click(asked.messages()[0], bob, label="Stop")
        await here.discord.done(refused)
        assert "Only the person who asked" in refused.reply()
        await asyncio.sleep(1)  # two looks
        assert not here.engine.requests[-1].cancelled
        assert await stop_and_time(here, asked) < DEADLINE


@POSTGRES
async def test_a_block_in_another_process_stops_the_reply(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        await here.start_bot()
        writer, other = ([session] for session in here.discord.gateway.connected)
        guild, boss = await here.member("boss", manager=True)
        ann = here.discord.user("ann")
        here.discord.gateway.interaction_receivers = writer
        asked = await talking(here, guild, ann)
        here.discord.gateway.interaction_receivers = other
        blocked = await here.use(guild, boss, "admin block", member=ann)
        assert "is blocked until" in blocked.reply()
        await here.discord.done(asked)
        here.engine.release()
        assert asked.reply() == "So far"
        here.discord.gateway.interaction_receivers = writer  # which may not know of the block yet: the database does
        refused = await here.ask(guild, ann, "And now?")
        assert "has blocked you" in refused.reply()
        assert [message.ephemeral for message in refused.messages()] == [True]


@POSTGRES
async def test_attack_stop_works_while_a_process_shuts_down(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, SHUTDOWN_GRACE="30") as here:
        guild, ann = await here.member()
        asked = await talking(here, guild, ann)
        here.bot.send(signal.SIGTERM)
        await here.discord.until(lambda: "stopping" in here.bot.log())
        assert await stop_and_time(here, asked) < DEADLINE
        assert await here.bot.wait(10) == 0


async def test_attack_what_a_process_killed_on_another_host_left_is_ended(postgres_url: str, tmp_path: Path) -> None:
    async with world(postgres_url, tmp_path, **SOON) as here:
        await here.start_bot(host="elsewhere")
        _, victim = ([session] for session in here.discord.gateway.connected)
        guild, ann = await here.member()
        here.discord.gateway.interaction_receivers = victim
        await here.ask(guild, ann, "Hello")
        _, bob = await here.member("bob")
        asked = await talking(here, guild, bob)
        again = await talking(here, guild, ann, command="regenerate")
        await asyncio.sleep(LEASE + 1)  # the living one must have watched for the length of a lease
        assert asked.reply() == again.reply() == "So far"
        await here.bots[1].kill()
        at = time.monotonic()
        await here.discord.until(lambda: asked.reply() == INTERRUPTED, timeout=40)
        # The turn that was regenerated still has its reply, which stands again.
        await here.discord.until(lambda: again.reply().endswith("You said: Hello"), timeout=20)
        assert time.monotonic() - at < 8 + 2 * 2 + 10 + 5  # far less than a minute
        [turn] = (await stored(postgres_url))[asked.id]
        assert turn.status == "interrupted"
        assert "another process has died" in here.bots[0].log()


@pytest.mark.long  # its rule in short: tests/bot/chat/test_heartbeat.py, a process that was taken for dead
async def test_attack_a_process_taken_for_dead_finishes_its_reply(postgres_url: str, tmp_path: Path) -> None:
    async with world(postgres_url, tmp_path, **SOON) as here:
        await here.start_bot(host="elsewhere")
        _, frozen = ([session] for session in here.discord.gateway.connected)
        guild, ann = await here.member()
        here.discord.gateway.interaction_receivers = frozen
        asked = await talking(here, guild, ann)
        await asyncio.sleep(LEASE + 1)
        here.bots[1].send(signal.SIGSTOP)
        await here.discord.until(lambda: asked.reply() == INTERRUPTED, timeout=60)
        here.bots[1].send(signal.SIGCONT)
        await here.discord.until(lambda: "took this one for dead" in here.bots[1].log(), timeout=20)
        here.engine.release()
        await here.discord.until(lambda: asked.reply() == "So far")
        await asyncio.sleep(2.5)  # some more looks of the other process
        assert asked.reply() == "So far"
        [turn] = (await stored(postgres_url))[asked.id]
        assert (turn.status, turn.reply) == ("done", "So far")
        here.discord.gateway.interaction_receivers = None
        await here.ask(guild, ann, "And now?")
        assert [message["content"] for message in here.engine.requests[-1].messages[1:]] == [
            "Talk",
            "So far",
            "And now?",
        ]


async def test_attack_a_process_frozen_between_two_messages_sends_none_twice(postgres_url: str, tmp_path: Path) -> None:
    """It sleeps for longer than it counts as alive for, and than Discord remembers nonces."""
    async with world(postgres_url, tmp_path, before=unlimited, **SOON) as here:
        await here.start_bot(host="elsewhere")
        _, frozen = ([session] for session in here.discord.gateway.connected)
        replies = Replies(here)
        for place in PLACES:
            replies.replies[f"{place} now"] = long_reply(place, messages=5)
        here.discord.fail("POST", r"/messages|/webhooks", times=1_000_000, delay=0.5)
        await asyncio.sleep(LEASE + 1)  # the living one must have watched for the length of a lease
        here.discord.gateway.message_receivers = here.discord.gateway.interaction_receivers = frozen
        asked = [await ask_in(here, place, f"{place} now", replies.replies[f"{place} now"]) for place in PLACES]
        await here.discord.until(lambda: all(len(each.messages()) >= 2 for each in asked))
        here.bots[1].send(signal.SIGSTOP)
        assert not any(each.complete() for each in asked)
        await here.discord.until(lambda: "another process has died" in here.bots[0].log(), timeout=40)
        here.discord.rest.faults.clear()
        await here.discord.until(lambda: all(each.complete() for each in asked), timeout=40)
        here.discord.advance(400)
        here.bots[1].send(signal.SIGCONT)
        await here.discord.until(lambda: "took this one for dead" in here.bots[1].log(), timeout=20)
        await asyncio.sleep(1.5)
        for each in asked:
            each.check()
        await recorded(postgres_url)


@pytest.mark.long  # its rule in short: tests/bot/chat/test_heartbeat.py, after an outage
async def test_attack_no_reply_of_a_living_process_is_ended_after_an_outage(
    own_postgres: Postgres, tmp_path: Path
) -> None:
    own_postgres.ensure_template()
    url = own_postgres.url(own_postgres.create_migrated())
    async with world(url, tmp_path, CLEANUP_INTERVAL="2s") as here:
        await here.start_bot(host="elsewhere")
        sessions = here.discord.gateway.connected
        people = [await here.member(name) for name in ("ann", "bob")]
        replies = []
        for session, (guild, user) in zip(sessions, people, strict=True):
            here.discord.gateway.interaction_receivers = [session]
            replies.append(await talking(here, guild, user))
        await asyncio.sleep(9)
        await asyncio.to_thread(own_postgres.stop)
        await asyncio.sleep(10)  # longer than a lease of 8 s
        await asyncio.to_thread(own_postgres.start)
        await asyncio.sleep(14)
        for bot in here.bots:
            assert "another process has died" not in bot.log()
        here.engine.release()
        await here.discord.done(*replies)
        assert [each.reply() for each in replies] == ["So far"] * 2
        turns = await stored(url)
        assert [turns[each.id][0].status for each in replies] == ["done"] * 2


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
async def test_a_process_that_ends_cleanly_leaves_no_row(
    database_url: str, tmp_path: Path, stop: signal.Signals
) -> None:
    async def rows() -> int:
        database = await bot_database(database_url)
        async with database.read() as session:
            count = int((await session.execute(text("SELECT count(*) FROM processes"))).scalar_one())
        await database.close()
        return count

    async with world(database_url, tmp_path) as here:
        here.engine.default = lambda request: Script(deltas=("hi",))
        guild, ann = await here.member()
        await here.ask(guild, ann, "Hello")
        assert await rows() == 1
        here.bot.send(stop)
        await here.bot.wait()
        assert await rows() == (0 if stop is signal.SIGTERM else 1)
