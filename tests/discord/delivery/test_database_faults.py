"""The bot as a process while its database refuses, disappears or is replaced, and while another bot process dies.

After each fault the whole log is searched for what members and the model said.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import psycopg
import pytest

from tests.discord.delivery.test_crash import INTERRUPTED, stored
from tests.discord.harness import BotProcess, world

NOT_SAVED = "I could not save this answer"
QUESTION, ANSWER = "what about xyzzy?", "plugh is the answer"


def without_words(bot: BotProcess) -> str:
    """The bot's log, which holds nothing that a member or the model said."""
    log = bot.log()
    assert "xyzzy" not in log
    assert "plugh" not in log
    return log


def refuse_replies(url: str) -> None:
    """Let the database refuse finished turns, with the words in its error where it can."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE OF reply ON turns BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        connection.close()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE turns ADD CONSTRAINT refuse CHECK (reply IS NULL) NOT VALID")


async def status_at_end(url: str, interaction_id: int) -> str:
    """The status of the interaction's turn, once it is not pending any more."""
    for _ in range(200):
        [turn] = (await stored(url))[interaction_id]
        if turn.status != "pending":
            return turn.status
        await asyncio.sleep(0.3)
    raise AssertionError("the turn is still pending")


def do_harm(path: Path, harm: str, template: Path) -> None:
    """Take the database file away from under the bot."""
    if harm == "deleted":
        path.unlink()
    elif harm == "replaced":
        shutil.copy(template, path.with_name("new.db"))
        path.with_name("new.db").replace(path)
    else:
        path.write_bytes(b"no database\n" * 10_000)


def exists(path: Path) -> bool:
    return path.exists()


async def test_case_11_a_refused_reply_stays_on_the_screen_and_no_word_is_logged(
    database_url: str, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path, CLEANUP_INTERVAL="1s") as here:
        guild, ann = await here.member()
        await here.ask(guild, ann, "hello")
        await asyncio.to_thread(refuse_replies, database_url)
        here.engine.reply(ANSWER)
        asked = await here.ask(guild, ann, QUESTION)
        assert asked.reply().startswith(ANSWER)
        assert NOT_SAVED in asked.reply()

        assert await status_at_end(database_url, asked.id) == "interrupted"
        assert NOT_SAVED in asked.reply(), "the message was edited again"
        log = without_words(here.bot)
        assert "the reply could not be saved" in log
        assert "Traceback" not in log


@pytest.mark.parametrize("harm", ["deleted", "replaced", "overwritten"])
async def test_attack_a_sqlite_file_lost_while_the_bot_runs(
    sqlite_url: str, sqlite_template: Path, tmp_path: Path, harm: str
) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    async with world(sqlite_url, tmp_path, CLEANUP_INTERVAL="1s") as here:
        guild, ann = await here.member()
        await here.ask(guild, ann, "hello")
        do_harm(path, harm, sqlite_template)
        await here.discord.until(lambda: "the database cannot be used" in here.bot.log(), timeout=20)
        asked = await here.ask(guild, ann, QUESTION)
        assert "I cannot reach my memory" in asked.texts()[0]
        log = without_words(here.bot)
        assert harm in log
        assert "nothing is stored until the bot is restarted" in log
        assert "Traceback" not in log
        assert await here.bot.stop() == 0
    assert exists(path) == (harm != "deleted"), "a new file took its place"


async def test_attack_what_a_killed_process_left_half_said_is_ended_by_a_living_one(
    database_url: str, tmp_path: Path
) -> None:
    soon = {"bot.cogs.unfinished_replies._DELAYS": [0.0, 0.5], "bot.cogs.unfinished_replies._INTERVAL": 0.5}
    async with world(database_url, tmp_path, constants=soon, CLEANUP_INTERVAL="1s") as here:
        guild, ann = await here.member()
        here.engine.hang(f"{ANSWER}, ")
        asked = await here.discord.chat(guild, ann, QUESTION)
        await here.discord.until(lambda: ANSWER in asked.reply())
        victim = here.bot
        await here.start_bot()
        await asyncio.sleep(1)  # its looks right after the start are over
        await victim.kill()
        await here.discord.until(lambda: asked.reply() == INTERRUPTED, timeout=60)
        assert await status_at_end(database_url, asked.id) == "interrupted"
        for bot in here.bots:
            without_words(bot)
