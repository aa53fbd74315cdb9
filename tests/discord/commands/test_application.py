"""Several Discord applications on one database, as the operator sees them: started, listed, replaced."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot.errors import EXIT_CONFIG
from bot.terminal.db_commands import db_app
from tests.discord.harness import World, world
from tests.fakes.discord.server import FakeDiscord
from tests.selection import SQLITE


def of_other(other: FakeDiscord) -> dict[str, str]:
    """Settings of a bot of another application."""
    return {name.removeprefix("GUILDLLAMA_"): value for name, value in other.environment().items()}


async def db(*arguments: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, db_app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


async def stop(here: World) -> None:
    for bot in here.bots:
        assert not bot.running or await bot.stop() == 0


@SQLITE
async def test_b26_another_bot_has_its_own_dialogs_until_it_takes_the_place_of_this_one(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", database_url)
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        await here.ask(guild, ann, "A secret of this bot")
        await here.start_bot()  # another process of the same application
        async with FakeDiscord() as other, FakeDiscord() as third:
            stranger = await here.start_bot(ready=False, **of_other(other))
            await other.until_ready()
            alpha, bob = other.guild("Alpha"), other.user("bob")
            await other.join(alpha)
            asked = await other.chat(alpha, bob, "Of the other bot")
            await other.done(asked)
            mine, theirs = here.discord.bot.id, other.bot.id

            dialogs = json.loads(await db("dialogs", "--json"))
            assert sorted((each["application_id"], each["guild_id"], each["ended_at"]) for each in dialogs) == sorted(
                [(mine, guild.id, None), (theirs, alpha.id, None)]
            )
            only = json.loads(await db("dialogs", "--application", str(theirs), "--json"))
            assert [each["guild_id"] for each in only] == [alpha.id]
            guilds = json.loads(await db("guilds", "--json"))
            assert {(each["application_id"], each["guild_id"]) for each in guilds if each["dialogs"]} == {
                (mine, guild.id), (theirs, alpha.id),
            }  # fmt: skip
            for each in dialogs:
                assert f"application {each['application_id']}" in await db("show", str(each["dialog_id"]))

            await stop(here)
            several = await asyncio.to_thread(CliRunner().invoke, db_app, ["adopt"])
            assert several.exit_code == EXIT_CONFIG
            assert f"{mine}, {theirs}" in several.output
            terminal = await asyncio.to_thread(CliRunner().invoke, db_app, ["adopt", "--application", "0"])
            assert (terminal.exit_code, "terminal" in terminal.output) == (EXIT_CONFIG, True)
            assert str(mine) in await db("adopt", "--application", str(mine))

            stranger = await here.start_bot(ready=False, **of_other(other))  # it is not new here
            await other.until_ready()
            assert await stranger.stop() == 0
            assert json.loads(await db("dialogs", "--application", str(mine), "--json"))
            heir = await here.start_bot(ready=False, **of_other(third))
            await third.until_ready()
            assert await heir.stop() == 0
            dialogs = json.loads(await db("dialogs", "--json"))
            assert {each["application_id"] for each in dialogs} == {third.bot.id, theirs}
