"""Faults of the gateway and of callbacks: replays, dropped connections, late defers, guilds that come and go."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Interaction

pytestmark = pytest.mark.asyncio(loop_scope="module")


def rows(here: World, sql: str, *values: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(here.database_url.removeprefix("sqlite:///")) as database:
        found = database.execute(sql, values).fetchall()
    database.close()
    return found


def turns(here: World, asked: Interaction) -> list[tuple[object, ...]]:
    return rows(here, "SELECT status, reply FROM turns WHERE interaction_id = ?", asked.id)


async def test_fault_08_a_replayed_interaction_is_answered_once(here: World) -> None:
    guild, ann = await here.member()
    gateway = here.discord.gateway
    asked = await here.ask(guild, ann, "Once")
    callbacks = len(here.discord.sent("POST", "/callback"))
    requests = len(here.engine.requests)
    await here.discord.repeat(asked)
    gateway.num_replayed_again = 5
    session = gateway.connected[0]
    await gateway.close(4000)
    await here.discord.until(lambda: session.num_resumes == 1, timeout=15)
    again = await here.ask(guild, ann, "Twice")
    gateway.num_replayed_again = 0
    assert again.reply() == "You said: Twice"
    assert turns(here, asked) == [("done", "You said: Once")]
    assert len(here.discord.sent("POST", "/callback")) == callbacks + 1
    assert len(here.engine.requests) == requests + 1


async def test_fault_22_an_interaction_of_the_outage_is_answered_after_the_resume(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("Meanwhile")
    running = await here.discord.chat(guild, ann, "Before")
    await here.discord.until(lambda: running.reply() == "Meanwhile")
    session = here.discord.gateway.connected[0]
    resumes = session.num_resumes
    await here.discord.gateway.close(4000)
    bob = here.discord.user("bob")
    asked = await here.discord.chat(guild, bob, "During")
    await here.discord.until(lambda: session.num_resumes > resumes, timeout=15)
    await here.discord.done(asked)
    assert asked.reply() == "You said: During"
    here.engine.release()
    await here.discord.done(running)
    assert running.reply() == "Meanwhile"


async def test_an_unreadable_event_is_skipped(here: World) -> None:
    guild, ann = await here.member()
    identifies = here.discord.gateway.num_identifies
    await here.discord.gateway.dispatch("INTERACTION_CREATE", {"id": "1", "type": 2, "token": "t"})
    await here.discord.gateway.dispatch("GUILD_CREATE", {"id": "none"})
    assert (await here.ask(guild, ann, "Hello")).reply() == "You said: Hello"
    assert here.discord.gateway.num_identifies == identifies
    assert here.bot.log().count("could not be read") == 2


async def test_a_session_that_cannot_be_resumed_is_identified_again(here: World) -> None:
    guild, ann = await here.member()
    identifies = here.discord.gateway.num_identifies
    await here.discord.gateway.close(4000, forget=True)
    await here.discord.until(lambda: here.discord.gateway.num_identifies > identifies, timeout=20)
    assert (await here.ask(guild, ann, "Hello again")).reply() == "You said: Hello again"
    assert len(here.discord.sent("PUT", "/commands")) == 1  # registered once, never again


@pytest.mark.parametrize(("status", "code"), [(404, 10062), (400, 40060), (403, 50013)])
async def test_fault_19_an_interaction_that_cannot_be_deferred_is_dropped(here: World, status: int, code: int) -> None:
    guild, ann = await here.member()
    requests = len(here.engine.requests)
    here.discord.fail("POST", "/callback", status=status, code=code)
    asked = await here.discord.chat(guild, ann, "Lost")
    await here.discord.until(lambda: f"{status} {code}" in here.bot.log())
    assert (await here.ask(guild, ann, "Found")).reply() == "You said: Found"
    assert turns(here, asked) == []
    assert len(here.engine.requests) == requests + 1


async def test_fault_19_a_late_defer_stores_nothing(here: World) -> None:
    guild, ann = await here.member()
    here.discord.fail("POST", "/callback", delay=3.2)
    asked = await here.discord.chat(guild, ann, "Late")
    await here.discord.until(lambda: here.discord.sent("POST", f"/interactions/{asked.id}/", ok=False))
    await asyncio.sleep(0.2)
    assert turns(here, asked) == []


@pytest.mark.parametrize("lost", ["request", "response"])
async def test_fault_07_after_a_lost_defer_nothing_is_stored(here: World, lost: str) -> None:
    guild, ann = await here.member()
    requests = len(here.engine.requests)
    here.discord.fail("POST", "/callback", lose=lost)
    asked = await here.discord.chat(guild, ann, "Was I heard?")
    await here.discord.until(lambda: str(asked.id) in here.bot.log())
    await here.ask(guild, ann, "Again")
    assert turns(here, asked) == []
    assert len(here.engine.requests) == requests + 1


async def test_b24_fault_35_a_removal_is_recorded_and_an_outage_is_not(here: World) -> None:
    guild, ann = await here.member()
    other, bob = await here.member("bob")
    await here.ask(guild, ann, "Hello")
    await here.ask(other, bob, "Hello")
    removed = "SELECT removed_at IS NOT NULL FROM guilds WHERE id = ?"
    await here.discord.outage(other)
    await here.discord.remove(guild)
    await here.discord.until(lambda: rows(here, removed, guild.id) == [(1,)])
    assert rows(here, removed, other.id) == [(0,)]
    assert rows(here, "SELECT ended_at IS NULL FROM dialogs WHERE guild_id = ?", guild.id) == [(0,)]
    await here.discord.join(other)
    await here.ask(other, bob, "Still here?")
    assert [message["content"] for message in here.engine.requests[-1].messages[1:3]] == ["Hello", "You said: Hello"]
    await here.discord.join(guild)
    await here.discord.until(lambda: rows(here, removed, guild.id) == [(0,)])
    assert (await here.ask(guild, ann, "Back again")).reply() == "You said: Back again"


async def test_fault_45_no_token_is_in_the_log(here: World) -> None:
    guild, ann = await here.member()
    asked = await here.ask(guild, ann, "A secret message")
    log = here.bot.log()
    assert len(log) > 1000
    assert here.discord.token not in log
    assert all(each.token not in log for each in here.discord.rest.interactions.values())
    assert "A secret message" not in log
    assert asked.done()
