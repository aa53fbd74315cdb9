"""Many replies at once: every final text is exact and Discord refuses no request for coming too soon.

With small numbers; `python -m tests.bench.load` does it with large ones and measures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.discord.harness import World, world
from tests.fakes.discord.server import Message
from tests.fakes.engine import Request, Script

NUM_WORDS = 60


def words(name: str) -> str:
    """The reply to the question that ends in this name."""
    return " ".join(f"{name}.{number}" for number in range(NUM_WORDS))


@asynccontextmanager
async def busy(database_url: str, folder: Path) -> AsyncIterator[World]:
    """A world whose engine writes three seconds on each reply. At the end, Discord had nothing to refuse."""

    def script(request: Request) -> Script:
        text = words(request.last.split()[-1])
        return Script(deltas=tuple(f"{word} " for word in text.split()), pace=0.05)

    async with world(database_url, folder) as here:
        here.engine.default = script
        yield here
        assert here.discord.rest.num_rate_limited == 0
        assert here.discord.rest.num_invalid == 0


async def mention(here: World, where: object, name: str) -> list[Message]:
    user = here.discord.user(name)
    asked = await here.discord.say(where, user, f"<@{here.discord.bot.id}> question {name}")  # type: ignore[arg-type]
    return await here.discord.answered(asked, timeout=60)


async def test_b12_replies_in_many_channels_are_exact_and_none_is_refused(postgres_url: str, tmp_path: Path) -> None:
    async with busy(postgres_url, tmp_path) as here:
        guild, _ = await here.member()
        channels = [here.discord.channel(guild, f"c{number}") for number in range(12)]
        await here.discord.join(guild)
        by_command = [
            await here.discord.chat(channel, here.discord.user(f"a{number}"), f"question a{number}")
            for number, channel in enumerate(channels)
        ]
        replies = await asyncio.gather(*(mention(here, each, f"b{index}") for index, each in enumerate(channels)))
        await here.discord.done(*by_command, timeout=60)
        assert [each.reply() for each in by_command] == [words(f"a{number}") for number in range(12)]
        assert [reply.content for [reply] in replies] == [words(f"b{number}") for number in range(12)]


async def test_b12_replies_in_one_channel_share_its_limits(postgres_url: str, tmp_path: Path) -> None:
    """Five messages and five edits in five seconds: final texts take what growing ones leave."""
    async with busy(postgres_url, tmp_path) as here:
        guild, _ = await here.member()
        users = [here.discord.user(f"a{number}") for number in range(5)]
        by_command = [await here.discord.chat(guild, user, f"question {user.name}") for user in users]
        replies = await asyncio.gather(*(mention(here, guild, f"b{number}") for number in range(7)))
        await here.discord.done(*by_command, timeout=60)
        assert [each.reply() for each in by_command] == [words(f"a{number}") for number in range(5)]
        assert [reply.content for [reply] in replies] == [words(f"b{number}") for number in range(7)]
        # Those by command have buckets of their own and grow all the while.
        assert all(len(each.messages()[0].edits) >= 3 for each in by_command)
        assert len(here.discord.sent("POST", "/typing")) <= 5  # one indicator for all


async def test_limits_are_taken_from_the_headers(postgres_url: str, tmp_path: Path) -> None:
    async with busy(postgres_url, tmp_path) as here:
        here.discord.rest.limits |= {"message_create": (2, 3.0), "message_edit": (3, 4.0)}
        guild, _ = await here.member()
        replies = await asyncio.gather(*(mention(here, guild, f"b{number}") for number in range(5)))
        assert [reply.content for [reply] in replies] == [words(f"b{number}") for number in range(5)]
