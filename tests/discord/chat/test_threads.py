"""Threads for a conversation: started by command or button, bound over restarts, never by themselves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.maintenance.cleanup import clean
from models.queries.deletion.retention import RetentionLimits
from tests.discord.harness import World, bot_database, world
from tests.fakes.discord.gateway import MESSAGE_CONTENT
from tests.fakes.discord.server import Channel, FakeDiscord, Guild, Interaction, Message, Permission, User
from tests.selection import POSTGRES, SQLITE

P = Permission
MENTIONS_ONLY = "-# To talk to me here, mention me"
EVERY_MESSAGE = "-# Just write here, I answer every message."


async def bound(url: str) -> list[tuple[int, int, int]]:
    """The bound threads: thread, guild, channel."""
    database = await bot_database(url)
    async with database.read() as session:
        rows = await session.execute(text("SELECT thread_id, guild_id, parent_id FROM bound_threads ORDER BY 1"))
        found = [(row[0], row[1], row[2]) for row in rows]
    await database.close()
    return found


async def start(here: World, guild: Guild, user: User, **options: str) -> Channel:
    """Use /thread start; return the thread that the answer links to."""
    known = {thread.id for thread in guild.threads}
    used = await here.use(guild, user, "thread start", **options)
    [thread] = [thread for thread in guild.threads if thread.id not in known]
    assert used.messages()[0].ephemeral
    assert used.reply() == f"Let us go on in <#{thread.id}>."
    return thread


def in_thread(here: World, thread: Channel) -> list[str]:
    """What the bot has written in a thread."""
    shown = [each for each in here.discord.rest.messages.values() if each.channel is thread and not each.deleted]
    return [each.content for each in shown if each.author is here.discord.bot and each.type in (0, 19)]


async def said(here: World, where: Channel, user: User, words: str, **options: Any) -> Message:
    """Write a message and wait for its one answer."""
    asked = await here.discord.say(where, user, words, **options)
    [answer] = await here.discord.answered(asked)
    return answer


async def quiet(here: World, message: Message, seconds: float = 0.8) -> None:
    await asyncio.sleep(seconds)
    assert here.discord.answers(message) == []


def allow_content(discord: FakeDiscord) -> None:
    discord.gateway.allowed_intents |= MESSAGE_CONTENT


def prompt(here: World) -> list[str]:
    return [message["content"] for message in here.engine.requests[-1].messages[1:]]


@POSTGRES
async def test_every_message_counts_where_the_intent_is_on_also_after_a_restart(
    database_url: str, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path, before=allow_content, MESSAGE_CONTENT="true") as here:
        guild, ann = await here.member()
        bob = here.discord.user("bob")
        thread = await start(here, guild, ann, name="Llamas  \u202e and\nus")
        assert (thread.name, thread.kind, thread.owner) == ("Llamas and us", 11, here.discord.bot)
        assert [line[: len(EVERY_MESSAGE)] for line in in_thread(here, thread)] == [EVERY_MESSAGE]
        assert await bound(database_url) == [(thread.id, guild.id, guild.channel.id)]
        assert (await said(here, thread, ann, "Hello")).content.endswith("[speaker: Ann]\nHello")
        await said(here, thread, bob, "And I am here")
        assert prompt(here)[0] == "[speaker: Ann]\nHello"
        assert prompt(here)[-1] == "[speaker: Bob]\nAnd I am here"
        await quiet(here, await here.discord.say(guild, ann, "Not for you"))
        other = await here.discord.thread(guild.channel, "Without you", user=ann)
        await quiet(here, await here.discord.say(other, ann, "Nor this"))
        await here.bot.stop()
        await here.start_bot()
        await said(here, thread, bob, "Still there?")
        assert prompt(here)[0] == "[speaker: Ann]\nHello"
        robot = here.discord.user("robot", bot=True)
        await quiet(here, await here.discord.say(thread, robot, "I am a bot"))


@SQLITE
async def test_without_the_intent_mentions_and_replies_count(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        thread = await start(here, guild, ann)
        assert thread.name == "Chat with Ann"
        [hint] = in_thread(here, thread)
        assert hint.startswith(MENTIONS_ONLY)
        await quiet(here, await here.discord.say(thread, ann, "Hello?"))
        first = await said(here, thread, ann, f"<@{here.discord.bot.id}> hello")
        bob = here.discord.user("bob")
        await said(here, thread, bob, "and from me", reply_to=first)
        assert prompt(here) == ["[speaker: Ann]\nhello", first.content, "[speaker: Bob]\nand from me"]
        # Elsewhere in this guild each member has their own dialog.
        await said(here, guild.channel, bob, f"<@{here.discord.bot.id}> alone")
        assert prompt(here) == ["alone"]


async def test_a_thread_under_a_reply_that_is_not_recorded_yet(sqlite_url: str, tmp_path: Path) -> None:
    """A member sees the last edit before the bot knows that it arrived."""
    async with world(sqlite_url, tmp_path) as here:
        guild, ann = await here.member()
        here.discord.fail("PATCH", "@original", lose="response")
        asked = await here.ask(guild, ann, "What is a llama?")
        pressed = await here.discord.press(asked.messages()[0], ann, label="Thread")
        await here.discord.done(pressed)
        [thread] = guild.threads
        assert pressed.reply() == f"Let us go on in <#{thread.id}>."


@POSTGRES
async def test_a_thread_under_a_reply(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        bob = here.discord.user("bob")
        asked = await here.ask(guild, ann, "What is a llama? @everyone")
        [reply] = asked.messages()
        by_bob = await here.discord.press(reply, bob, label="Thread")
        await here.discord.done(by_bob)
        assert "Only the person who asked" in by_bob.reply()
        assert guild.threads == []
        pressed = [await here.discord.press(reply, ann, label="Thread") for _ in range(10)]
        for each in pressed:
            await here.discord.done(each)
        [thread] = guild.threads
        assert thread.id == reply.id
        assert thread.name == "What is a llama? @everyone"
        links = [each.reply() for each in pressed if f"<#{thread.id}>" in each.reply()]
        assert links
        assert len(in_thread(here, thread)) == 1
        again = await here.discord.press(reply, ann, label="Thread")
        await here.discord.done(again)
        assert f"<#{thread.id}>" in again.reply()
        assert len(await bound(database_url)) == 1
        inside = await said(here, thread, ann, f"<@{here.discord.bot.id}> and what do they eat?")
        # The thread goes on from the reply that it began at, until that is forgotten.
        assert prompt(here)[0] == "[speaker: member]\nWhat is a llama? @everyone"
        await here.discord.press(reply, ann, label="Forget")
        await here.discord.until(lambda: reply.content.startswith("-# Forgotten"))
        await said(here, thread, bob, f"<@{here.discord.bot.id}> I see")
        assert prompt(here)[0] == "[speaker: Ann]\nand what do they eat?"
        assert [button.get("label") for button in inside.buttons()] == ["Regenerate", "Edit", "Forget"]
        hidden = await here.ask(guild, ann, "In private", private=True)
        assert "Thread" not in [button.get("label") for button in hidden.messages()[0].buttons()]
        at_home = await here.ask(ann, ann, "At home")
        assert "Thread" not in [button.get("label") for button in at_home.messages()[0].buttons()]


async def refused(here: World, guild: Guild, used: Interaction) -> str:
    """The one ephemeral line of a refusal, after which nothing exists."""
    await here.discord.done(used)
    [line] = used.messages()
    assert line.ephemeral
    assert "\n" not in line.content
    assert guild.threads == []
    assert await bound(here.database_url) == []
    return line.content


@pytest.mark.parametrize(
    ("denied", "named"),
    [
        (P.CREATE_PUBLIC_THREADS, "Create Public Threads"),
        (P.SEND_MESSAGES_IN_THREADS, "Send Messages in Threads"),
    ],
)
@SQLITE
async def test_missing_permissions_are_said_in_one_line(
    database_url: str, tmp_path: Path, denied: P, named: str
) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        [reply] = (await here.ask(guild, ann, "Hi")).messages()
        await here.discord.permit(guild.channel, here.discord.bot, deny=denied)
        used = await here.discord.command(guild, ann, "thread start")
        assert f"I need the permission {named}" in await refused(here, guild, used)
        pressed = await here.discord.press(reply, ann, label="Thread")
        assert f"I need the permission {named}" in await refused(here, guild, pressed)


@SQLITE
async def test_who_may_not_start_threads_gets_none_through_the_bot(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, boss = await here.member("boss", manager=True)
        ann = here.discord.user("ann")
        [reply] = (await here.ask(guild, ann, "Hi")).messages()
        await here.discord.permit(guild.channel, ann, deny=P.CREATE_PUBLIC_THREADS)
        used = await here.discord.command(guild, ann, "thread start")
        assert "You need the permission Create Public Threads" in await refused(here, guild, used)
        pressed = await here.discord.press(reply, ann, label="Thread")
        assert "You need the permission Create Public Threads" in await refused(here, guild, pressed)
        # From a modified client: in direct messages, with a turn of another guild, at another message, in a thread.
        command = here.discord.registered("thread")
        at_home = await here.discord.force_command(here.discord.dm(ann), None, ann, command["id"], "thread start")
        assert "not in direct messages" in await refused(here, guild, at_home)
        await here.discord.permit(guild.channel, ann)
        other, _ = await here.member("other")
        word = next(each["custom_id"] for each in reply.buttons() if each.get("label") == "Thread")
        forged = await here.discord.force_component(reply, ann, word, guild=other)
        assert "another place" in await refused(here, other, forged)
        elsewhere = await here.discord.say(guild, boss, "Mine")
        forged = await here.discord.force_component(elsewhere, ann, word)
        assert "do not remember" in await refused(here, guild, forged)
        forged = await here.discord.force_component(reply, ann, "thread:x")
        assert "do not remember" in await refused(here, guild, forged)
        # The guild's rules on channels hold as for /chat.
        bots = here.discord.channel(guild, "bots")
        await here.use(guild, boss, "config channels add", channel=bots)
        used = await here.discord.command(guild, ann, "thread start")
        assert f"<#{bots.id}>" in await refused(here, guild, used)


@SQLITE
async def test_a_thread_in_a_thread_is_refused(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        thread = await here.discord.thread(guild.channel, "Llamas", user=ann)
        used = await here.use(thread, ann, "thread start")
        assert "in a thread already" in used.reply()
        assert await bound(database_url) == []


@POSTGRES
async def test_b30_a_binding_survives_and_goes_with_its_thread(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, before=allow_content, MESSAGE_CONTENT="true") as here:
        guild, ann = await here.member()
        games = here.discord.channel(guild, "games")
        await here.discord.announce(games)
        first, second = [await start(here, guild, ann, name=name) for name in ("One", "Two")]
        used = await here.use(games, ann, "thread start", name="Three")
        third = guild.threads[-1]
        assert f"<#{third.id}>" in used.reply()
        await here.discord.delete_channel(first)
        for _ in range(100):
            if len(await bound(database_url)) == 2:
                break
            await asyncio.sleep(0.05)
        assert [each[0] for each in await bound(database_url)] == [second.id, third.id]
        # A channel that is only hidden from the bot keeps its threads, one that is deleted does not.
        await here.discord.permit(guild.channel, here.discord.bot, deny=P.VIEW_CHANNEL)
        await here.discord.delete_channel(games)
        for _ in range(100):
            if len(await bound(database_url)) == 1:
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert [each[0] for each in await bound(database_url)] == [second.id]
        await here.discord.permit(guild.channel, here.discord.bot)
        await said(here, second, ann, "Are you back?")


async def test_a_binding_goes_with_its_guild_and_when_it_is_not_used(database_url: str, tmp_path: Path) -> None:
    limits = RetentionLimits(timedelta(days=7), timedelta(days=30), timedelta(days=7))
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        thread = await start(here, guild, ann)
        gone, bob = await here.member("bob")
        await start(here, gone, bob)
        await here.discord.remove(gone)
        await asyncio.sleep(0.5)
        database = await bot_database(database_url)
        now = datetime.now(UTC)
        await clean(database, limits=limits, now=now)
        assert len(await bound(database_url)) == 2  # within the days of grace
        await clean(database, limits=limits, now=now + timedelta(days=8))
        assert [each[0] for each in await bound(database_url)] == [thread.id]
        await clean(database, limits=limits, now=now + timedelta(days=38))
        assert await bound(database_url) == []
        await database.close()


@POSTGRES
async def test_another_process_knows_a_new_thread_within_seconds(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, before=allow_content, MESSAGE_CONTENT="true") as here:
        await here.start_bot()
        first, second = here.discord.gateway.connected
        guild, ann = await here.member()
        here.discord.gateway.interaction_receivers = [first]
        thread = await here.discord.thread(guild.channel, "Not yet", user=ann)
        await here.discord.say(thread, ann, "Nobody listens")  # both know now that it is not bound
        started = await start(here, guild, ann)
        await here.bots[0].kill()
        await here.discord.until(lambda: here.discord.gateway.connected == [second])
        await asyncio.sleep(3.2)
        await said(here, started, ann, "Who answers?")


@SQLITE
async def test_b30_an_archived_thread_is_opened_again_by_the_answer(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        thread = await start(here, guild, ann)
        here.engine.hang("First words ")
        asked = await here.discord.say(thread, ann, f"<@{here.discord.bot.id}> go on")
        await here.discord.until(lambda: here.discord.answers(asked))
        await here.discord.archive(thread)
        here.engine.release()
        [answer] = await here.discord.answered(asked)
        assert not thread.archived
        assert answer.content.startswith("First words")
        assert len(here.discord.answers(asked)) == 1
        # A week later, by a button under it.
        await here.discord.archive(thread)
        await here.discord.press(answer, ann, label="Regenerate")
        await here.discord.until(lambda: answer.content.endswith("go on"))


@SQLITE
async def test_b30_the_answer_in_a_locked_thread_goes_to_direct_messages(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        thread = await start(here, guild, ann)
        for number, archived in enumerate((True, False), start=1):
            here.engine.hang("First words ")
            asked = await here.discord.say(thread, ann, f"<@{here.discord.bot.id}> question {number}")
            if archived:
                await here.discord.until(lambda asked=asked: here.discord.answers(asked))
                await here.discord.archive(thread, locked=True)
            else:
                await here.discord.until(lambda: "question 2" in str(here.engine.requests[-1].messages))
                thread.locked = True
            here.engine.release()
            await here.discord.until(lambda number=number: len(here.discord.posts(ann)) == number)
            await asyncio.sleep(0.3)
            assert await delivery_states(database_url) == {"done"}, here.bot.log()[-2500:]
            assert here.discord.posts(ann)[-1].content.startswith(f"-# I may not write in <#{thread.id}>")
            await here.discord.unarchive(thread)
        await said(here, thread, ann, f"<@{here.discord.bot.id}> again")


async def delivery_states(url: str) -> set[str]:
    database = await bot_database(url)
    async with database.read() as session:
        found = set((await session.scalars(text("SELECT state FROM deliveries"))).all())
    await database.close()
    return found


async def test_the_intent_that_discord_does_not_give_is_explained(sqlite_url: str, tmp_path: Path) -> None:
    async with world(sqlite_url, tmp_path, ready=False, MESSAGE_CONTENT="true") as here:
        assert await here.bot.wait() == 78
        assert "GUILDLLAMA_MESSAGE_CONTENT" in here.bot.log()
        assert "Switch on Message Content Intent" in here.bot.log()
