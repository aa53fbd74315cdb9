"""The bot where only a user brought it along: guilds that have not invited it, and private channels of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.tables import Base
from tests.discord.harness import World, bot_database, world
from tests.fakes.discord.server import Channel, Guild, Message, User
from tests.selection import POSTGRES, SQLITE

shared = pytest.mark.asyncio(loop_scope="module")
LONG = "\n\n".join(f"Paragraph {number} " + "word " * 60 for number in range(60))
REGENERATE = "\N{CLOCKWISE RIGHTWARDS AND LEFTWARDS OPEN CIRCLE ARROWS}"


def traveller(here: World, name: str = "ann") -> tuple[Guild, User]:
    """A user who installed the bot for themselves, and a guild that did not."""
    ann = here.discord.user(name)
    here.discord.install(ann)
    return here.discord.guild("Foreign", joined=False), ann


async def everything(here: World, *tables: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of the database, by table; only of these tables if any are named."""
    database = await bot_database(here.database_url)
    async with database.read() as session:
        found = {
            table.name: [dict(row) for row in (await session.execute(text(f"SELECT * FROM {table.name}"))).mappings()]
            for table in Base.metadata.sorted_tables
            if not tables or table.name in tables
        }
    await database.close()
    return found


def system_prompt(here: World) -> str:
    return str(here.engine.requests[-1].messages[0]["content"])


@SQLITE
async def test_nothing_of_a_guild_that_has_not_invited_the_bot_is_stored(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        foreign, ann = traveller(here)
        group = here.discord.private(ann, here.discord.user("bob"), here.discord.user("carl"))
        message = await here.discord.say(foreign, here.discord.user("dora"), "The ship leaves at nine")
        seen: list[Message] = []
        places: list[Guild | Channel] = [foreign, group]
        for where in places:
            here.engine.reply("Hello.")
            asked = await here.ask(where, ann, "Hi there")
            [answer] = asked.messages()
            assert answer.content == "> Hi there\nHello."  # others see it, but did not see the command
            assert not answer.ephemeral
            here.engine.reply("Hello again.")
            await here.discord.press(answer, ann, label="Regenerate")
            await here.discord.until(lambda shown=answer: shown.content.endswith("again.") and not shown.runs())
            assert answer.content == "> Hi there\nHello again."
            seen.append(answer)
            for command in ("history show", "me persona show", "privacy show", "help", "regenerate"):
                used = await here.use(where, ann, command)
                assert "(error" not in used.reply()
        await here.use(foreign, ann, "me persona set", prompt="You are a nun.")
        opened = await here.discord.menu(message, ann, "Ask about this")
        await here.discord.done(opened)
        sent = await here.discord.submit(opened, question="When?")
        await here.discord.done(sent)
        link = f"https://discord.com/channels/{foreign.id}/{foreign.channel.id}/{message.id}"
        assert sent.messages()[0].content.startswith(f"> When?\n-# About [this message]({link})\nYou said: ")
        assert system_prompt(here) == "You are a nun."
        # It is the dialog of their direct messages.
        await here.ask(ann, ann, "What did I say?")
        assert "Hi there" in str(here.engine.requests[-1].messages)
        assert system_prompt(here) == "You are a nun."
        assert "no longer think" in (await here.use(foreign, ann, "reset")).reply()
        stored = await everything(here)
        assert len(stored["turns"]) >= 4
        forbidden = {foreign.id, foreign.channel.id, group.id}
        for table, rows in stored.items():
            for row in rows:
                assert not [value for value in row.values() if value in forbidden], (table, row)
                assert str(foreign.id) not in str(row), (table, row)
        assert {row["id"] for row in stored["guilds"]} <= {0}
        assert not here.discord.posts(foreign)
        assert not here.discord.posts(group)
        refused = [each.path for each in here.discord.rest.requests if each.status in (401, 403)]
        assert refused == []


@POSTGRES
async def test_the_rest_comes_as_a_direct_message_once_the_token_is_dead(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        foreign, ann = traveller(here)
        here.engine.hang("The beginning ", "and the end.")
        asked = await here.discord.chat(foreign, ann, "Tell me")
        await here.discord.until(lambda: "beginning" in asked.reply())
        here.discord.advance(901)
        here.engine.release()
        await here.discord.until(lambda: here.discord.posts(ann))
        [late] = here.discord.posts(ann)
        assert late.content.endswith("The beginning and the end.")
        assert late.channel is here.discord.dm(ann)
        assert not here.discord.posts(foreign)
        assert not [each for each in here.discord.rest.requests if f"/channels/{foreign.channel.id}" in each.path]


@POSTGRES
async def test_a_reply_cut_off_by_a_crash_is_finished_through_its_token(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        foreign, ann = traveller(here)
        await here.bot.stop()
        await here.start_bot(CRASH_AT="after_finish")
        here.engine.reply("Kept all the same.")
        asked = await here.discord.chat(foreign, ann, "Tell me")
        await here.bot.wait()
        await here.start_bot()
        await here.discord.done(asked, timeout=30)
        assert [message.content for message in asked.messages()] == ["> Tell me\nKept all the same."]
        assert str(foreign.id) not in str(await everything(here))


@shared
async def test_where_discord_hides_the_answer_nothing_is_quoted(here: World) -> None:
    foreign, ann = traveller(here)
    ann.external_apps = False
    asked = await here.ask(foreign, ann, "Hi", private=False)
    [answer] = asked.messages()
    assert answer.ephemeral
    assert answer.content == "You said: Hi"
    here.engine.reply("Second.")
    await here.discord.press(answer, ann, label="Regenerate")
    await here.discord.until(lambda: answer.content == "Second." and not answer.runs())
    message = await here.discord.say(foreign, here.discord.user("bob"), "Hello")
    opened = await here.discord.menu(message, ann, "Ask about this")
    await here.discord.done(opened)
    assert "audience" not in str(opened.modal)  # Discord has decided already
    here.engine.fail(500)
    failed = await here.discord.chat(foreign, ann, "Fail")
    await here.discord.until(lambda: failed.texts() and not failed.messages()[0].loading)
    assert [each.ephemeral for each in failed.messages()] == [True]
    assert not failed.followups


@shared
async def test_a_long_answer_takes_five_messages_at_most(here: World) -> None:
    foreign, ann = traveller(here)
    here.engine.reply(LONG)
    asked = await here.ask(foreign, ann, "Long")
    await here.discord.until(lambda: asked.messages()[-1].buttons())
    assert len(asked.messages()) == 5
    assert asked.num_followups == 4
    assert asked.messages()[-1].attachments
    # Of the earlier messages the button's token reaches none: the new answer begins where the button is.
    here.engine.reply("Short.")
    last = asked.messages()[-1]
    await here.discord.press(last, ann, label="Regenerate")
    await here.discord.until(lambda: last.content.endswith("Short.") and not last.runs())
    assert last.content == "-# In place of my answer above:\n> Long\nShort."
    await here.discord.until(lambda: last.buttons())
    await here.discord.press(last, ann, label="Forget")
    await here.discord.until(lambda: "Forgotten" in last.content)
    assert last.content == (
        "-# Forgotten: I no longer think of this exchange. What I wrote above belongs to it; I cannot change those "
        "messages any more."
    )
    assert not last.buttons()
    assert last.attachments == []


@shared
async def test_only_the_asker_may_press_and_no_manager_of_that_guild(here: World) -> None:
    foreign, ann = traveller(here)
    boss = here.discord.user("boss")
    foreign.managers.add(boss.id)
    here.engine.reply("First.")
    [answer] = (await here.ask(foreign, ann, "Hi")).messages()
    requests = len(here.engine.requests)
    for user in (boss, here.discord.user("bob")):
        for label in ("Regenerate", "Edit", "Forget"):
            pressed = await here.discord.press(answer, user, label=label)
            await here.discord.until(lambda pressed=pressed: pressed.followups or pressed.messages())
            said = [*pressed.texts(), *(each.content for each in pressed.followups)]
            assert "Only the person who asked" in said[0]
    here.engine.hang("So far")
    running = await here.discord.chat(foreign, ann, "Talk")
    await here.discord.until(lambda: running.messages() and running.messages()[0].buttons())
    pressed = await here.discord.press(running.messages()[0], boss, label="Stop")
    await here.discord.until(lambda: pressed.messages())
    assert "Only the person who asked" in pressed.reply()
    await here.discord.press(running.messages()[0], ann, label="Stop")
    await here.discord.done(running)
    assert len(here.engine.requests) == requests + 1
    assert answer.content == "> Hi\nFirst."


@shared
@pytest.mark.parametrize("command", ["persona set", "persona show", "config show"])
async def test_b04_a_manager_elsewhere_manages_nothing_here(here: World, command: str) -> None:
    foreign, boss = traveller(here, "boss")
    foreign.managers.add(boss.id)
    registered = here.discord.registered(command.split()[0])
    with pytest.raises(AssertionError, match="not installed"):
        await here.discord.command(foreign, boss, command)
    group = here.discord.private(boss, here.discord.user("bob"), here.discord.user("carl"))
    tables = ("guilds", "personas", "persona_versions", "guild_settings", "audit_log", "dialogs")
    before = await everything(here, *tables)
    places: list[tuple[Channel, Guild | None]] = [(foreign.channel, foreign), (group, None)]
    for channel, guild in places:
        options = {"prompt": "You are evil."} if command == "persona set" else {}
        forged = await here.discord.force_command(channel, guild, boss, registered["id"], command, **options)
        await here.discord.done(forged)
        assert "only in a guild that has invited me" in forged.reply()
        assert forged.messages()[0].ephemeral
    assert await everything(here, *tables) == before
    assert "/config" not in (await here.use(foreign, boss, "help")).reply()


@shared
async def test_b04_rules_and_personas_of_a_guild_stay_in_it(here: World) -> None:
    home, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    here.discord.install(ann)
    foreign = here.discord.guild("Foreign", joined=False)
    await here.use(home, boss, "persona set", prompt="You are a pirate.")
    await here.use(home, boss, "config channels add", channel=here.discord.channel(home, "elsewhere"))
    refused = await here.ask(home, ann, "Hello")
    assert "do not chat in this channel" in refused.reply()  # an own installation is no way around them
    await here.ask(foreign, ann, "Hello")
    assert system_prompt(here) != "You are a pirate."
    # A guild that the bot has left is one that it is not in, whatever it once decided.
    await here.discord.remove(home)
    asked = await here.ask(home, ann, "And now?")
    assert "You said: And now?" in asked.reply()
    assert system_prompt(here) != "You are a pirate."


@shared
async def test_a_guild_in_an_outage_is_still_one_that_the_bot_is_in(here: World) -> None:
    guild, ann = await here.member()
    here.discord.install(ann)
    await here.ask(guild, ann, "A secret of the guild")
    await here.discord.outage(guild)
    await here.ask(guild, ann, "And now?")
    assert "A secret of the guild" in str(here.engine.requests[-1].messages)
    await here.discord.join(guild)
    await here.ask(ann, ann, "Hello")
    assert "secret" not in str(here.engine.requests[-1].messages)


@shared
async def test_a_reaction_to_the_late_message_does_no_harm(here: World) -> None:
    foreign, ann = traveller(here)
    here.engine.hang("Late.")
    asked = await here.discord.chat(foreign, ann, "Tell me")
    await here.discord.until(lambda: "Late" in asked.reply())
    here.discord.advance(901)
    try:
        here.engine.release()
        await here.discord.until(lambda: here.discord.posts(ann))
        [late] = here.discord.posts(ann)
        here.engine.reply("Anew.")
        await here.discord.react(late, ann, REGENERATE)
        await here.discord.until(lambda: "Anew." in here.discord.posts(ann)[-1].content)
        assert not here.discord.posts(foreign)
    finally:
        here.discord.advance(-901)
