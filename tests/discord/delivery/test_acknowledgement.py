"""The moment of the acknowledgement: what Discord has acknowledged is recorded, and no slow database delays it.

The fake Discord kills the bot while it handles the callback, before the bot learns that it was taken.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web
from sqlalchemy import text

from tests.discord.delivery.delivery_kit import recorded
from tests.discord.delivery.test_crash import LOST_PLACE, stored
from tests.discord.harness import World, bot_database, world
from tests.fakes.discord.interaction_routes import callback
from tests.fakes.discord.rest import Rest
from tests.fakes.discord.state import Json
from tests.selection import POSTGRES, SQLITE

CALLBACK = ("POST", "/interactions/{interaction_id}/{interaction_token}/callback")


def kill_at_callback(here: World) -> None:
    """Kill the bot once Discord has taken the next acknowledgement."""

    async def acknowledged(rest: Rest, request: web.Request, given: Json) -> web.Response:
        response = await callback(rest, request, given)
        rest.routes = routes
        await here.bot.kill()
        return response

    routes = here.discord.rest.routes
    here.discord.rest.routes = {**routes, CALLBACK: acknowledged}


async def deliveries(url: str) -> list[tuple[object, ...]]:
    database = await bot_database(url)
    try:
        async with database.read() as session:
            rows = await session.execute(text("SELECT turn_id, state, reply_token FROM deliveries"))
            return [tuple(row) for row in rows]
    finally:
        await database.close()


@SQLITE
async def test_what_was_acknowledged_when_the_process_died_comes_to_an_end(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        [answered] = (await here.ask(guild, ann, "Hello")).messages()
        kill_at_callback(here)
        asked = await here.discord.chat(guild, ann, "Are you there?", private=True)
        assert await here.bot.wait() == -9
        assert asked.callback_type == 5
        await here.start_bot()
        await here.discord.until(lambda: asked.reply() == LOST_PLACE)
        kill_at_callback(here)
        again = await here.discord.command(guild, ann, "regenerate")
        assert await here.bot.wait() == -9
        await here.start_bot()
        await here.discord.until(lambda: again.reply() == LOST_PLACE)
        assert answered.content == "> Hello\nYou said: Hello"
        assert (await here.ask(guild, ann, "And now?")).reply() == "You said: And now?"
        assert asked.id not in await stored(database_url)
        await recorded(database_url)


@SQLITE
async def test_what_was_not_acknowledged_leaves_no_message(database_url: str, tmp_path: Path) -> None:
    """Discord has told the member that the application did not respond."""
    async with world(database_url, tmp_path, CRASH_AT="before_acknowledge") as here:
        guild, ann = await here.member()
        asked = await here.discord.chat(guild, ann, "Are you there?")
        assert await here.bot.wait() == -9
        assert len(await deliveries(database_url)) == 1
        await here.start_bot(CRASH_AT="")
        await here.ask(guild, ann, "And now?")

        async def forgotten() -> bool:
            return len(await deliveries(database_url)) == 1

        await here.until(forgotten)
        assert asked.callback_type is None
        assert not here.discord.posts(guild)
        await recorded(database_url)


async def test_a_refusal_and_a_member_who_opted_out_leave_no_record(sqlite_url: str, tmp_path: Path) -> None:
    async with world(sqlite_url, tmp_path, MAX_MESSAGE_CHARS="20") as here:
        guild, ann = await here.member()
        refused = await here.discord.force_command(
            here.discord.place(guild), guild, ann, here.discord.registered("chat")["id"], "chat", message="x" * 50
        )
        await here.discord.done(refused)
        assert "too long" in refused.reply(), refused.reply()

        async def forgotten() -> bool:
            return await deliveries(sqlite_url) == []

        await here.until(forgotten)  # once the member has read of it
        await here.use(guild, ann, "privacy optout")
        assert (await here.ask(guild, ann, "Hello")).reply() == "You said: Hello"
        await recorded(sqlite_url)


@POSTGRES
async def test_a_database_that_hangs_does_not_hold_the_acknowledgement_up(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        await here.ask(guild, ann, "Hello")
        database = await bot_database(database_url)
        try:
            async with database.write() as session:
                await session.execute(text("LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE"))
                asked = await here.discord.chat(guild, ann, "Are you there?")
                await asyncio.sleep(2.5)
                assert asked.callback_type == 5, "acknowledged, though nothing can be recorded"
        finally:
            await database.close()
        await here.discord.done(asked)
        assert asked.reply() == "You said: Are you there?"
        await recorded(database_url)
        rows = await deliveries(database_url)
        assert len(rows) == 2, "one for each turn: the late record is gone"
