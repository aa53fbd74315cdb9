"""A persona's messages through a webhook survive a crash: each text is shown once, in its name, with its buttons."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.discord.chat.test_webhooks import speaking, spoken, told
from tests.discord.delivery.delivery_kit import long_reply, recorded, unlimited
from tests.discord.harness import World, world
from tests.fakes.discord.server import Message

pytestmark = pytest.mark.asyncio(loop_scope="module")
INTERRUPTED = "I was restarted while I was writing this answer. Please ask again."


async def crash_at(here: World, point: str) -> None:
    await here.bot.kill()
    await here.start_bot(CRASH_AT=point)


async def restart(here: World) -> None:
    await here.bot.wait()
    await here.discord.until(lambda: not here.discord.gateway.connected)
    await here.start_bot(CRASH_AT="")


def stored(folder: Path) -> bytes:
    """All that is in files of the database."""
    return b"".join(file.read_bytes() for file in folder.glob("*.db*"))


@pytest.mark.parametrize("point", ["after_message:1", "after_shown:1"])
async def test_killed_after_the_commit(database_url: str, tmp_path: Path, point: str) -> None:
    await killed_after_the_commit(database_url, tmp_path, point)


@pytest.mark.parametrize("point", ["after_finish", "after_message:2"])
async def test_killed_at_other_points(sqlite_url: str, tmp_path: Path, point: str) -> None:
    await killed_after_the_commit(sqlite_url, tmp_path, point)


async def killed_after_the_commit(url: str, tmp_path: Path, point: str) -> None:
    """Each message is there once, and nothing of the webhook's token anywhere."""
    async with world(url, tmp_path, before=unlimited) as here:
        guild, _, ann = await speaking(here)
        await crash_at(here, point)
        here.engine.reply(reply := long_reply("Arr", messages=3))
        await here.mention(guild, ann, "Tell me")
        await restart(here)

        def shown() -> list[Message]:
            return here.discord.spoken(guild)

        await here.discord.until(lambda: shown() and shown()[-1].content.endswith("word2"), timeout=30)
        await here.discord.until(lambda: shown()[-1].buttons())
        texts = [told(shown()[0]), *(each.content for each in shown()[1:])]
        assert " ".join(texts).split() == reply.split()
        assert {each.author.name for each in shown()} == {"Jack"}
        assert not any(each.runs() for each in shown())
        assert here.discord.posts(guild) == [each for each in here.discord.posts(guild) if "answers" in each.content]
        await recorded(url)
        here.engine.reply("Short.")
        await here.discord.press(shown()[-1], ann, label="Regenerate")
        await here.discord.until(lambda: len(shown()) == 1 and told(shown()[0]) == "Short.")
        [webhook] = here.discord.own_webhooks(guild)
        assert webhook.token not in "".join(bot.log() for bot in here.bots)
        assert webhook.token.encode() not in stored(tmp_path)


@pytest.mark.parametrize("point", ["after_message:1", "after_shown:1"])
async def test_killed_while_it_streams(sqlite_url: str, tmp_path: Path, point: str) -> None:
    """What it had begun to say gives way to an apology, whether the id of its message was recorded or not."""
    async with world(sqlite_url, tmp_path, before=unlimited) as here:
        guild, _, ann = await speaking(here)
        await crash_at(here, point)
        here.engine.hang("Once upon ")
        await here.mention(guild, ann, "Tell me")
        await restart(here)
        await here.discord.until(
            lambda: [told(each) for each in here.discord.spoken(guild)] == [INTERRUPTED], timeout=30
        )
        assert not here.discord.spoken(guild)[0].buttons()
        here.engine.release()
        await recorded(sqlite_url)


async def test_killed_before_its_first_message(sqlite_url: str, tmp_path: Path) -> None:
    """Nothing of the persona is there to be changed, so the bot itself replies to the question."""
    async with world(sqlite_url, tmp_path, before=unlimited) as here:
        guild, _, ann = await speaking(here)
        await crash_at(here, "before_message")
        here.engine.hang("Once upon ")
        asked = await here.mention(guild, ann, "Tell me")
        await restart(here)
        await here.discord.until(lambda: here.discord.answers(asked), timeout=30)
        assert [each.content for each in here.discord.answers(asked)] == [INTERRUPTED]
        assert here.discord.spoken(guild) == []
        here.engine.release()
        await recorded(sqlite_url)


async def test_its_webhook_was_deleted_meanwhile(sqlite_url: str, tmp_path: Path) -> None:
    """The bot says the rest itself, below the persona's name."""
    async with world(sqlite_url, tmp_path, before=unlimited) as here:
        guild, _, ann = await speaking(here)
        await crash_at(here, "after_finish")
        here.engine.reply("Arr, hello.")
        asked = await here.mention(guild, ann, "Tell me")
        await here.bot.wait()
        for webhook in here.discord.own_webhooks(guild):
            webhook.deleted = True
        await restart(here)
        await here.discord.until(lambda: here.discord.answers(asked), timeout=30)
        [answer] = await here.discord.answered(asked)
        assert answer.content == "**Jack**\nArr, hello."
        await recorded(sqlite_url)


async def test_two_processes_make_one_webhook(postgres_url: str, tmp_path: Path) -> None:
    """Both see the question and look for the webhook; one of them answers."""
    async with world(postgres_url, tmp_path, before=unlimited) as here:
        guild, _, ann = await speaking(here)
        await here.start_bot()
        for method in ("GET", "POST"):
            here.discord.fail(method, r"/channels/\d+/webhooks", times=10, delay=0.2)
        here.engine.reply("Arr, hello.")
        await here.mention(guild, ann, "Hello")
        [message] = await spoken(here, guild)
        assert told(message) == "Arr, hello."
        await here.discord.until(lambda: len(here.discord.own_webhooks(guild)) == 1)
        assert message.webhook_id == here.discord.own_webhooks(guild)[0].id
