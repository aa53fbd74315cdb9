"""The bot killed while a summary is written: the dialog is whole, the memory old or new, and the work goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.discord.harness import World, bot_database, world
from tests.fakes.discord.server import Guild, User
from tests.fakes.engine import Request, Script
from tests.fakes.engine.notes import is_notes, note_taker

OLD, NEW = "They spoke of I like old maps.", "They spoke of I like new maps."


async def remembering(here: World) -> tuple[Guild, User]:
    """A guild with memory whose prompts have one pair, and a manager of it who is remembered."""
    here.engine.default = note_taker
    guild, ann = await here.member(manager=True)
    await here.use(guild, ann, "config memory on")
    await here.use(guild, ann, "config set", max_chat_logs=1)
    await here.use(guild, ann, "memory on")
    return guild, ann


async def stored(url: str) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """The summaries, the pairs that are done, and the facts."""
    database = await bot_database(url)
    try:
        async with database.read() as session:
            summaries = await session.scalars(text("SELECT text FROM dialog_summaries ORDER BY to_turn_id"))
            pairs = await session.execute(text("SELECT user_text, reply FROM turns WHERE status = 'done' ORDER BY id"))
            facts = await session.scalars(text("SELECT text FROM facts ORDER BY id"))
            return list(summaries), [tuple(pair) for pair in pairs], list(facts)
    finally:
        await database.close()


async def until_summarised(url: str, *lines: str) -> None:
    for _ in range(100):
        summaries, _, _ = await stored(url)
        if summaries and summaries[-1] == "\n".join(lines):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(summaries)


def slow_for_new_maps(request: Request) -> Script:
    """A model that begins the second summary and takes long for its end."""
    if is_notes(request) and not request.last.startswith("Message: ") and "new maps" in request.last:
        return Script(deltas=('{"summary": "They ', *["spoke "] * 600, json.dumps("x")), pace=0.1)
    return note_taker(request)


@pytest.mark.parametrize("at", ["while the model writes", "in_summary:2", "after_summary:2"])
async def test_killed_while_a_summary_is_written(database_url: str, tmp_path: Path, at: str) -> None:
    if at == "after_summary:2" and not database_url.startswith("sqlite"):
        pytest.skip("the transaction is over: it is the same on both")
    async with world(database_url, tmp_path, CRASH_AT=at if ":" in at else "") as here:
        guild, ann = await remembering(here)
        await here.ask(guild, ann, "I like old maps")
        await until_summarised(database_url, OLD)
        if ":" not in at:
            here.engine.default = slow_for_new_maps
        await here.ask(guild, ann, "I like new maps")
        if ":" not in at:
            await here.discord.until(lambda: any("new maps" in each.last and is_notes(each) and
                                                 not each.last.startswith("Message: ")
                                                 for each in here.engine.requests))  # fmt: skip
            await here.bot.kill()
        else:
            assert await here.bot.wait() == -9
        said = [("I like old maps", "You said: I like old maps"), ("I like new maps", "You said: I like new maps")]
        summaries, pairs, facts = await stored(database_url)
        assert pairs == said
        assert summaries[-1] == ("\n".join((OLD, NEW)) if at == "after_summary:2" else OLD)
        assert facts == ["The user like old maps", "The user like new maps"]
        here.engine.default = note_taker
        await here.start_bot(CRASH_AT="")
        await until_summarised(database_url, OLD, NEW)
        shown = (await here.use(guild, ann, "history show")).reply()
        assert shown == "\n\n".join(f"**You:** {question}\n**Me:** {answer}" for question, answer in said)
        await here.ask(guild, ann, "Which maps?")
        prompt = str([request for request in here.engine.requests if not is_notes(request)][-1].messages[0]["content"])
        assert OLD in prompt
        assert NEW in prompt
        assert (await stored(database_url))[2] == facts
