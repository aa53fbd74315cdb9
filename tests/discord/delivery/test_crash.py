"""The bot killed as by a power cut, at named points and at random moments, on both databases.

A reply that Discord has in full must be in the database; no turn may be stored in part or twice; the next start must
edit the messages of interrupted replies.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.discord.harness import World, bot_database, world
from tests.fakes.discord.server import Guild, Interaction, User
from tests.fakes.engine import Script
from tests.selection import SQLITE

LOST_PLACE = "I was restarted before I came to your message. Please ask again."
INTERRUPTED = "I was restarted while I was writing this answer. Please ask again."


@dataclass(frozen=True)
class Turn:
    status: str
    user: str
    reply: str | None


async def stored(url: str) -> dict[int, list[Turn]]:
    """All turns, by the interaction that they answer."""
    database = await bot_database(url)
    try:
        async with database.read() as session:
            found = await session.execute(
                text("SELECT interaction_id, status, user_text, reply FROM turns ORDER BY id")
            )
            grouped: dict[int, list[Turn]] = {}
            for interaction_id, *rest in found:
                grouped.setdefault(interaction_id, []).append(Turn(*rest))
            return grouped
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("point", "status", "shown"),
    [
        ("after_acknowledge", None, LOST_PLACE),
        ("after_begin_turn", "interrupted", INTERRUPTED),
        ("before_finish", "interrupted", INTERRUPTED),
        ("after_finish", "done", ""),
        ("after_final_edit", "done", "You said: Are you there?"),
    ],
)
async def test_cases_1_and_2_killed_at_a_named_point(
    sqlite_url: str, tmp_path: Path, point: str, status: str | None, shown: str
) -> None:
    async with world(sqlite_url, tmp_path, CRASH_AT=point) as here:
        guild, ann = await here.member()
        asked = await here.discord.chat(guild, ann, "Are you there?")
        assert await here.bot.wait() == -9
        await here.start_bot(CRASH_AT="")
        if shown:
            await here.discord.until(lambda: asked.reply() == shown)
        again = await here.ask(guild, ann, "And now?")
        assert again.reply() == "You said: And now?"
        remembered = ["Are you there?", "You said: Are you there?"] if status == "done" else []
        prompt = [message["content"] for message in here.engine.requests[-1].messages[1:]]
        assert prompt == [*remembered, "And now?"]
        turns = (await stored(sqlite_url)).get(asked.id, [])
        assert [turn.status for turn in turns] == ([status] if status else [])
        assert len(asked.messages()) == 1


@SQLITE
async def test_fault_03_killed_at_any_moment(database_url: str, tmp_path: Path) -> None:
    await kill_again_and_again(database_url, tmp_path, kills=3, seed=7)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_fault_03_killed_at_any_moment_200_times(database_url: str, tmp_path: Path) -> None:
    await kill_again_and_again(database_url, tmp_path, kills=200, seed=11)


async def kill_again_and_again(database_url: str, folder: Path, *, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    async with world(database_url, folder, SHUTDOWN_GRACE="5") as here:
        here.discord.rest.limits["webhook"] = (50, 1.0)
        here.engine.default = lambda request: Script(
            deltas=("You ", "said: ", request.last), pace=chance.choice((0.0, 0.02, 0.15))
        )
        people = [await here.member(f"member{number}") for number in range(6)]
        asked: list[Interaction] = []
        for kill in range(kills):
            before = len(asked)
            asking = asyncio.create_task(keep_asking(here, people, asked, f"round {kill}"))
            if kill % 2 == 0:  # however busy the machine is, some are answered
                await here.discord.until(lambda: any(each.done() for each in asked[before:]))  # noqa: B023
            await asyncio.sleep(chance.uniform(0.05, 1.8))
            await here.bot.kill()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await here.start_bot()
        await asyncio.gather(*(here.ask(guild, user, "The end") for guild, user in people))
        turns = await stored(database_url)
        interrupted = [each for each in asked if [turn.status for turn in turns.get(each.id, [])] == ["interrupted"]]
        await here.discord.until(lambda: all(each.reply() == INTERRUPTED for each in interrupted), timeout=40)
        assert await here.bot.stop() == 0
    assert check(asked, await stored(database_url)) > kills // 2, "the bot hardly came to answer"
    if database_url.startswith("sqlite"):
        with sqlite3.connect(database_url.removeprefix("sqlite:///")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        database.close()


async def keep_asking(here: World, people: list[tuple[Guild, User]], asked: list[Interaction], label: str) -> None:
    """All users ask again and again, until cancelled."""
    for number in itertools.count():
        for guild, user in people:
            asked.append(await here.discord.chat(guild, user, f"{label}, question {number}"))
        await asyncio.sleep(0.4)


def check(asked: list[Interaction], turns: dict[int, list[Turn]]) -> int:
    """Assert that the database and Discord agree; return how many interactions were answered in full."""
    answered = 0
    for each in asked:
        question = each.data["options"][0]["value"]
        rows = turns.get(each.id, [])
        assert len(rows) <= 1, "an interaction was answered twice"
        for turn in rows:
            assert turn.user == question
            assert (turn.reply is not None) == (turn.status == "done"), "half a pair"
            assert turn.status in ("done", "interrupted", "failed")
        full = f"You said: {question}"
        shown = [
            message for message in each.messages() if message.content == f"> {question}\n{full}" and not message.runs()
        ]
        assert len(shown) <= 1
        if shown:
            answered += 1
            assert [(turn.status, turn.reply) for turn in rows] == [("done", full)], "shown, and not in the database"
    return answered
