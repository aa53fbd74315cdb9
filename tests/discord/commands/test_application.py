"""A database belongs to one Discord application; its processes may share it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot.errors import EXIT_CONFIG
from bot.terminal.db_commands import db_app
from tests.discord.harness import world
from tests.fakes.discord.server import FakeDiscord
from tests.selection import SQLITE


@SQLITE
async def test_b26_another_bot_does_not_get_the_dialogs_of_this_one(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        await here.ask(guild, ann, "A secret of this bot")
        await here.start_bot()  # another process of the same application
        for bot in here.bots:
            assert await bot.stop() == 0
        async with FakeDiscord() as other:
            other.guild("Alpha")
            stranger = await here.start_bot(ready=False, **{
                name.removeprefix("GUILDLLAMA_"): value for name, value in other.environment().items()
            })  # fmt: skip
            assert await stranger.wait() == EXIT_CONFIG
            line = stranger.log().strip().splitlines()[-1]
            assert f"application {other.bot.id}" in line
            assert f"belongs to application {here.discord.bot.id}" in line
            assert "guildllama db adopt" in line
            assert other.sent("PUT", "/commands") == []
            monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", database_url)
            adopted = await asyncio.to_thread(CliRunner().invoke, db_app, ["adopt"])
            assert adopted.exit_code == 0
            assert str(here.discord.bot.id) in adopted.output
            bot = await here.start_bot(ready=False, **{
                name.removeprefix("GUILDLLAMA_"): value for name, value in other.environment().items()
            })  # fmt: skip
            await other.until_ready()
            assert await bot.stop() == 0
        refused = await here.start_bot(ready=False)
        assert await refused.wait() == EXIT_CONFIG
