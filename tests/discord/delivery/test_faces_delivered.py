"""The name above a reply survives what can happen to its messages: a crash after the commit, and a dead token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.discord.delivery.delivery_kit import long_reply, unlimited
from tests.discord.harness import World, world
from tests.fakes.discord.server import Guild, User

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def with_name(here: World) -> tuple[Guild, User]:
    guild, boss = await here.member("boss", manager=True)
    await here.use(guild, boss, "persona set", prompt="You are a pirate.", name="Jack")
    await here.use(guild, boss, "persona face", how="name")
    return guild, boss


@pytest.mark.parametrize("expired", [False, True])
async def test_killed_after_the_commit(sqlite_url: str, tmp_path: Path, expired: bool) -> None:
    """The next process shows the rest below the name; in place of an answer whose token has died, too."""
    async with world(sqlite_url, tmp_path, before=unlimited) as here:
        guild, boss = await with_name(here)
        await here.bot.kill()
        await here.discord.until(lambda: not here.discord.gateway.connected)
        await here.start_bot(CRASH_AT="after_finish")
        here.engine.reply(reply := long_reply("Arr", messages=2))
        asked = await here.discord.chat(guild, boss, "Tell me")
        await here.bot.wait()
        if expired:
            here.discord.advance(901)
        await here.discord.until(lambda: not here.discord.gateway.connected)
        await here.start_bot(CRASH_AT="")

        def texts() -> list[str]:
            late = [each for each in here.discord.rest.messages.values() if each.channel is guild.channel]
            own = [each.content for each in late if each.author is here.discord.bot and not each.deleted]
            return own if expired else asked.texts()

        end = "word1"
        await here.discord.until(lambda: texts() and texts()[-1].endswith(end), timeout=30)
        shown = texts()
        opening = f"<@{boss.id}> **Jack**\n" if expired else "**Jack**\n"
        first = next(index for index, each in enumerate(shown) if "Arr part 0" in each)
        assert shown[first].startswith(f"{opening}Arr part 0")
        assert sum(each.count("**Jack**") for each in shown[first:]) == 1
        assert " ".join(shown[first:]).split() == (opening + reply).split()
