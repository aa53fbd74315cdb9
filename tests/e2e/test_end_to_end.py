"""From /chat on the gateway through the supervised engine and the real model into the database, and back to Discord.

One bot as its users run it: `guildllama run` with the embedded model on the CPU. Only Discord is a fake.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from engine.chat.chat_format import chat_format
from engine.chat.formats import Message
from engine.checkpoint import open_checkpoint
from tests.bot.processes import command_lines, parent
from tests.discord.harness import BotProcess, World, free_port, page
from tests.fakes.discord.server import FakeDiscord, Guild, Interaction, User
from tests.fakes.engine import FakeEngine

TIMEOUT = 90.0


@pytest_asyncio.fixture
async def here(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose bot starts its own engine."""
    async with FakeDiscord() as discord:
        opened = World(discord, FakeEngine(), sqlite_url, tmp_path)
        # Not quantized, so that a reply takes seconds and can be interrupted.
        settings = {"MAX_REPLY_TOKENS": "64", "TEMPERATURE": "0", "DEVICE": "cpu", "SHUTDOWN_GRACE": "20"}
        settings["QUANTIZE"] = "none"
        settings["METRICS_PORT"] = opened.settings["METRICS_PORT"] = str(free_port())
        environment = opened.environment(**settings)
        del environment["GUILDLLAMA_ENGINE_URL"]
        bot = BotProcess(environment, tmp_path)
        opened.bots.append(bot)
        try:
            await bot.start()
            await discord.until_ready()
            yield opened
        finally:
            await bot.stop()
        assert "\n".join(discord.violations) == ""


async def answered(here: World, guild: Guild, user: User, text: str) -> Interaction:
    """Ask until the model is loaded: until then the answer is an ephemeral error."""
    async with asyncio.timeout(TIMEOUT):
        for _ in range(1000):
            asked = await here.discord.chat(guild, user, text)
            await here.discord.done(asked, timeout=TIMEOUT)
            if not asked.messages()[0].ephemeral:
                return asked
            assert "model" in asked.reply(), asked.reply()
            await asyncio.sleep(0.5)
    raise AssertionError("the model never came")


def engine_processes(bot: BotProcess) -> list[int]:
    """The engine's processes below the bot, without the guard; not empty once the engine was started."""
    assert bot.process
    parents: dict[int, int] = {}
    for pid in command_lines():
        with contextlib.suppress(OSError):
            parents[pid] = parent(pid)
    family = {bot.process.pid}
    while more := {pid for pid, above in parents.items() if above in family} - family:
        family |= more
    return sorted(pid for pid in family if is_engine(pid))


def is_engine(pid: int) -> bool:
    words = command_lines().get(pid, [])
    return "engine" in words and "--model" in words and "bot.engine_process.guard" not in words


def turns(here: World, user: User) -> list[tuple[str, str, int]]:
    with sqlite3.connect(here.database_url.removeprefix("sqlite:///")) as database:
        found = database.execute(
            "SELECT user_text, reply, prompt_tokens FROM turns JOIN dialogs ON dialogs.id = turns.dialog_id "
            "WHERE dialogs.user_id = ? AND turns.status = 'done' ORDER BY turns.id",
            (user.id,),
        ).fetchall()
    database.close()
    return found


async def test_two_guilds_at_the_same_time_and_an_engine_that_dies(here: World) -> None:
    personas = {"ann": "You are a pirate. You talk about the sea.", "bob": "You are a gardener. You talk about roses."}
    members: list[tuple[Guild, User]] = []
    for name, prompt in personas.items():
        guild, user = await here.member(name, manager=True)
        await here.use(guild, user, "persona set", prompt=prompt)
        members.append((guild, user))
    await answered(here, *members[0], "Hello! My secret word is anchor.")
    await asyncio.gather(
        answered(here, *members[1], "Hello! My secret word is tulip."),
        answered(here, *members[0], "What do you do all day?"),
    )
    last = await asyncio.gather(*(answered(here, guild, user, "What is my secret word?") for guild, user in members))

    # What is shown is what is stored, and each prompt had exactly its own persona and history in it, token for token.
    checkpoint = open_checkpoint("smollm2")
    form = chat_format(checkpoint.spec, checkpoint.tokenizer())
    for (_, user), asked, own in zip(members, last, (3, 2), strict=True):
        stored = turns(here, user)
        assert len(stored) == own
        assert stored[-1][1].strip() == asked.reply()
        dialog: list[Message] = [{"role": "system", "content": personas[user.name]}]
        for text, reply, prompt_tokens in stored:
            dialog.append({"role": "user", "content": text})
            assert len(form.encode(dialog)) == prompt_tokens
            dialog.append({"role": "assistant", "content": reply})
    checkpoint.close()

    # The engine dies in the middle of a reply.
    guild, ann = members[0]
    before = engine_processes(here.bot)
    assert before
    running = await here.discord.chat(guild, ann, "Count from one to one hundred in words.")
    await here.discord.until(lambda: running.messages() and running.messages()[0].buttons(), timeout=TIMEOUT)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await here.discord.done(running, timeout=10)
    assert running.messages()[0].ephemeral
    assert "model" in running.reply()
    assert "(error " in running.reply()
    assert here.bot.running
    assert len(here.discord.gateway.connected) == 1

    again = await answered(here, guild, ann, "Are you back?")
    assert turns(here, ann)[-1][:2] == ("Are you back?", again.reply())
    assert [text for text, *_ in turns(here, ann)][-2] == "What is my secret word?"
    assert set(engine_processes(here.bot)).isdisjoint(before)
    assert here.discord.gateway.num_identifies == 1

    # The numbers of the engine are on the bot's page, those of the second one from its start on.
    numbers = await page(int(here.settings["METRICS_PORT"]))
    assert numbers["guildllama_bot_engine_restarts_total"] == 1
    assert numbers["guildllama_bot_engine_up"] == numbers["guildllama_bot_engine_metrics_up"] == 1
    assert numbers.sum("guildllama_bot_info", engine="own") == 1
    assert numbers["guildllama_engine_up"] == 1
    assert (
        numbers.sum("guildllama_engine_requests_total", outcome="stop")
        + numbers.sum("guildllama_engine_requests_total", outcome="length")
        == 1
    )
    assert numbers["guildllama_engine_generated_tokens_total"] > 0
    engines = engine_processes(here.bot)
    assert await here.bot.stop() == 0
    assert engines
    assert not any(is_engine(pid) for pid in engines)
