"""`guildllama run` with the engine that it starts itself: the embedded model behind a fake Discord."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.bot.processes import command_lines, parent, socket_folder
from tests.discord.harness import BotProcess, World, world
from tests.fakes.discord.server import Interaction

OWN_ENGINE = {"ENGINE_URL": "", "MAX_REPLY_TOKENS": "400", "REPLY_TIMEOUT": "60"}
TALKATIVE = {"TEMPERATURE": "0", "FREQUENCY_PENALTY": "0", "PERSONA": "You are a helpful assistant. Answer briefly."}
"""With these the embedded model tells a story that is longer than the test needs."""


def engine_processes(folder: str | None = None) -> dict[int, str]:
    """Processes of an engine or its guard, each with its socket's folder."""
    found = {pid: socket_folder(words) for pid, words in command_lines().items()}
    return {pid: its for pid, its in found.items() if its is not None and folder in {None, its}}


def shown(interaction: Interaction) -> str:
    """All that the member sees of an answer."""
    return "\n".join(interaction.texts())


async def own_engine(here: World) -> tuple[int, str]:
    """The engine of this bot: its pid and the folder of its socket."""
    assert here.bot.process
    for _ in range(400):
        for pid, folder in engine_processes().items():
            guard = parent(pid)
            if guard in engine_processes(folder) and parent(guard) == here.bot.process.pid:
                return pid, folder
        await asyncio.sleep(0.05)
    raise AssertionError(f"no engine: {here.bot.log()[-2000:]}")


@pytest.mark.long
async def test_killed_in_the_middle_of_a_reply_the_engine_comes_back_and_the_bot_never_left(
    sqlite_url: str, tmp_path: Path
):
    async with world(sqlite_url, tmp_path, make_bot=BotProcess, **OWN_ENGINE, **TALKATIVE) as here:
        guild, ann = await here.member()
        pid, folder = await own_engine(here)
        # A message before the model is loaded waits for it, and says so if that takes its time.
        early = await here.discord.chat(guild, ann, "Are you there?")
        await here.discord.done(early, timeout=120)
        assert "Please try again" not in shown(early)
        [message] = early.messages()
        assert all("still loading" in text for _, text in message.edits if "⏳" in text)
        first = await answered(here, "What is the capital of France?")
        assert "Paris" in first

        running = asyncio.create_task(here.ask(guild, ann, "Tell me a very long story about the sea."))
        await asyncio.sleep(2)
        os.kill(pid, signal.SIGKILL)
        failed = await asyncio.wait_for(running, 30)
        assert "stopped in the middle" in shown(failed)

        assert "Paris" in await answered(here, "What is the capital of France?")
        assert len(here.discord.gateway.connected) == 1
        assert await here.bot.stop() == 0
        assert engine_processes(folder) == {}
        assert "Traceback" not in here.bot.log()


async def answered(here: World, text: str) -> str:
    """The answer to this, asked again while the engine restarts."""
    guild, user = await here.member("bob")
    for _ in range(120):
        said = shown(await here.ask(guild, user, text))
        if "Please try again" not in said:
            return said
        await asyncio.sleep(0.5)
    raise AssertionError(f"the model never answered: {here.bot.log()[-2000:]}")


async def test_a_model_that_cannot_be_loaded_ends_the_bot_with_one_line(sqlite_url: str, tmp_path: Path):
    async with world(
        sqlite_url, tmp_path, make_bot=BotProcess, ready=False, **OWN_ENGINE, MODEL="/no/such/model"
    ) as here:
        assert await here.bot.wait(60) == 78
        lines = [line for line in here.bot.log().splitlines() if line.startswith("guildllama: ")]
        assert len(lines) == 1
        assert "/no/such/model" in lines[0]
        assert "GUILDLLAMA_MODEL" in lines[0]
        assert "Traceback" not in here.bot.log()
