"""How a persona is seen where it answers: its name above replies, and where that name must not be."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from models.engines import sync_engine
from models.urls import sync_url
from tests.discord.harness import World
from tests.fakes.discord.server import Guild, User

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def named_guild(here: World, name: str = "Jack") -> tuple[Guild, User, User]:
    """A guild with a persona of this name that is shown above its replies."""
    guild, boss = await here.member("boss", manager=True)
    await here.use(guild, boss, "persona set", prompt="You are a pirate.", name=name)
    shown = await here.use(guild, boss, "persona face", how="name")
    assert shown.reply() == "The name of the persona that answers stands in bold above each answer."
    return guild, boss, here.discord.user("ann")


async def test_the_name_stands_above_the_reply_and_nowhere_else(both: World) -> None:
    here = both
    guild, boss, ann = await named_guild(here)
    here.engine.reply("Arr, hello.")
    asked = await here.ask(guild, ann, "Hello")
    assert asked.reply() == "**Jack**\nArr, hello."
    here.engine.reply("Arr again.")
    said = await here.discord.say(guild.channel, ann, f"<@{here.discord.bot.id}> and again")
    await here.discord.until(lambda: here.discord.answers(said) and here.discord.answers(said)[0].components)
    assert here.discord.answers(said)[0].content == "**Jack**\nArr again."
    # The model reads neither name line: it is no part of the pair.
    messages = here.engine.requests[-1].messages
    assert [each["content"] for each in messages if each["role"] == "assistant"] == ["Arr, hello."]
    assert "name of the persona" in (await here.use(guild, ann, "persona show")).reply()
    assert "`/persona face` **name**" in (await here.use(guild, boss, "config show")).reply()
    await here.use(guild, boss, "config reset", setting="persona_face")
    here.engine.reply("Plain.")
    assert (await here.ask(guild, ann, "And now?")).reply() == "Plain."
    assert "name of the persona" not in (await here.use(guild, ann, "persona show")).reply()
    engine = sync_engine(sync_url(here.database_url))
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT details FROM audit_log WHERE guild_id = :guild ORDER BY id"), {"guild": guild.id}
        )
        details = [row.details for row in found]
    engine.dispose()
    assert any("persona_face" in each and "name" in each for each in details)


async def test_only_managers_choose_it(both: World) -> None:
    here = both
    guild, _ = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    assert "Manage Server" in (await here.use(guild, ann, "persona face", how="name")).reply()
    assert (await here.ask(guild, ann, "Hello")).reply() == "You said: Hello"


async def test_each_reply_keeps_the_name_that_it_had(both: World) -> None:
    here = both
    guild, boss, ann = await named_guild(here)
    here.engine.reply("First.")
    asked = await here.ask(guild, ann, "Hello")
    await here.use(guild, boss, "persona set", prompt="You are a queen.", name="Anne *the* @everyone")
    here.engine.reply("Second.")
    await here.discord.press(asked.messages()[0], ann, label="Regenerate")
    await here.discord.until(lambda: "Second." in asked.reply() and "2/2" in str(asked.messages()[0].components))
    assert asked.reply() == "**Anne \\*the\\* @\u200beveryone**\nSecond."
    await here.discord.press(asked.messages()[0], ann, emoji="◀️")
    await here.discord.until(lambda: asked.reply() == "**Jack**\nFirst.")
    await here.discord.press(asked.messages()[0], ann, emoji="▶️")
    await here.discord.until(lambda: "Second." in asked.reply())
    assert "**Anne" in asked.reply()


async def test_a_long_reply_is_named_once_and_fits(both: World) -> None:
    here = both
    guild, _, ann = await named_guild(here, "J" * 80)
    words = " ".join(f"word{number}" for number in range(500))
    here.engine.reply(words)
    asked = await here.ask(guild, ann, "Tell me all")
    await here.discord.until(lambda: asked.messages()[-1].content.endswith(" word499"))
    shown = asked.texts()
    assert len(shown) > 1
    assert all(len(each.encode("utf-16-le")) // 2 <= 2000 for each in shown)
    assert [each.count("J" * 80) for each in shown] == [1] + [0] * (len(shown) - 1)
    assert " ".join([shown[0].removeprefix(f"**{'J' * 80}**\n"), *shown[1:]]).split() == words.split()
