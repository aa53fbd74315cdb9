"""/admin purge: what is counted, typed, hidden, brought back and at last deleted; also over a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from models.tables import Dialog, Persona, Purge
from tests.discord.commands.command_kit import audited, refused
from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Interaction, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONSTANTS = {"bot.guilds.retention.PURGE_INTERVAL": 0.5}
"""The bot looks every half second for what is due."""


async def question(here: World, guild: Guild, boss: User, what: str, **options: Any) -> Message:
    [message] = (await here.use(guild, boss, "admin purge", what=what, **options)).messages()
    assert message.ephemeral
    return message


async def confirm(here: World, message: Message, boss: User, typed: str) -> Interaction:
    opened = await here.discord.press(message, boss, "Delete")
    await here.discord.done(opened)
    sent = await here.discord.submit(opened, typed=typed)
    await here.discord.done(sent)
    return sent


async def purged(here: World, message: Message, boss: User, typed: str) -> None:
    await confirm(here, message, boss, typed)
    await here.discord.until(lambda: "### Deleted" in message.content)


async def scalar(here: World, statement: Any) -> Any:
    async with here.database() as database, database.read() as session:
        return await session.scalar(statement)


async def make_due(here: World) -> None:
    async with here.database() as database, database.write() as session:
        await session.execute(update(Purge).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))


async def test_conversations_are_hidden_at_once_and_come_back_after_a_restart(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    other = here.discord.guild("another guild")
    await here.discord.join(other)
    asked = await here.ask(guild, ann, "Ann's old words")
    await here.use(guild, ann, "reset")
    await here.ask(guild, ann, "Ann's new words")
    await here.ask(guild, boss, "The boss's words")
    await here.ask(other, ann, "Elsewhere")
    message = await question(here, guild, boss, "conversations")
    assert "3 conversations with 3 answers" in message.content
    for typed in ("", "4", "yes"):
        assert "Nothing was deleted" in (await confirm(here, message, boss, typed)).reply()
    await purged(here, message, boss, "3")
    assert [each["label"] for each in message.buttons()] == ["Undo"]
    assert "words" not in (await here.use(guild, ann, "history show")).reply()
    assert "new words" not in (await here.use(guild, ann, "history search", text="words")).reply()
    pressed = await here.discord.press(asked.messages()[0], ann, "Forget")
    await here.discord.until(lambda: "do not remember" in " ".join(pressed.texts()))
    assert "no reset" in (await here.use(guild, ann, "history undo")).reply()
    await here.ask(guild, ann, "Afterwards")
    assert [each["content"] for each in here.engine.requests[-1].messages[1:]] == ["Afterwards"]

    await here.bot.stop()
    await here.start_bot()
    await here.discord.press(message, boss, "Undo")
    await here.discord.until(lambda: "3 conversations are back." in message.content)
    assert "Ann's new words" in (await here.use(guild, ann, "history show")).reply()
    found = (await here.use(guild, ann, "history search", text="words")).reply()
    assert "old **words**" in found
    assert "Afterwards" in (await here.use(guild, ann, "conversation list")).reply()
    await here.ask(guild, ann, "Going on")
    assert [each["content"] for each in here.engine.requests[-1].messages[1:]] == [
        "Ann's new words", "You said: Ann's new words", "Going on",
    ]  # fmt: skip
    assert await scalar(here, select(func.count(Purge.id))) == 0
    log = await audited(here, guild)
    assert [(each.action, each.actor_id) for each in log] == [("purge.undo", boss.id), ("purge", boss.id)]
    assert log[1].details["dialogs"] == 3


async def test_what_is_not_brought_back_is_deleted_and_the_engines_cache_erased(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.ask(guild, ann, "One")
    await here.ask(guild, boss, "Two")
    erased = len(here.engine.erased)
    message = await question(here, guild, boss, "conversations", member=ann)
    assert "1 conversation with 1 answer" in message.content
    assert f"Of <@{ann.id}> alone." in message.content
    await purged(here, message, boss, guild.name.lower())
    assert len(here.engine.erased) == erased + 1
    await make_due(here)

    async def gone() -> bool:
        return await scalar(here, select(func.count(Dialog.id)).where(Dialog.purge_id.is_not(None))) == 0

    await here.until(gone)
    assert await scalar(here, select(func.count(Dialog.id)).where(Dialog.guild_id == guild.id)) == 1
    await here.discord.press(message, boss, "Undo")
    await here.discord.until(lambda: "too late" in message.content)
    assert "Two" in (await here.use(guild, boss, "history show")).reply()
    assert "There is nothing" in (await question(here, guild, boss, "conversations", member=ann)).content


async def test_only_what_is_old_enough(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.ask(guild, ann, "Old")
    await here.ask(guild, boss, "New")
    async with here.database() as database, database.write() as session:
        await session.execute(
            update(Dialog)
            .where(Dialog.guild_id == guild.id, Dialog.user_id == ann.id)
            .values(last_active_at=datetime.now(UTC) - timedelta(days=8))
        )
    message = await question(here, guild, boss, "conversations", older_than=7)
    assert "1 conversation with 1 answer" in message.content
    await purged(here, message, boss, "1")
    assert "New" in (await here.use(guild, boss, "history show")).reply()
    assert "Old" not in (await here.use(guild, ann, "history show")).reply()


async def test_personas_and_notes_go_at_once(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.use(guild, boss, "persona set", prompt="You are Jack.", name="Jack")
    await here.use(guild, ann, "me persona set", prompt="You are a poet.", name="Rhymer")
    await here.use(guild, boss, "config memory on")
    await here.use(guild, ann, "memory on")
    await here.use(guild, ann, "memory add", note="I like tea")
    await here.ask(guild, ann, "Hello")
    message = await question(here, guild, boss, "personas", member=ann)
    assert "1 persona" in message.content
    assert "cannot be brought back" in message.content
    await purged(here, message, boss, "1")
    assert message.buttons() == []
    assert await scalar(here, select(Persona.name).where(Persona.guild_id == guild.id)) == "Jack"
    message = await question(here, guild, boss, "memory")
    assert "1 note about members" in message.content
    await purged(here, message, boss, "1")
    assert "tea" not in (await here.use(guild, ann, "memory show")).reply()
    message = await question(here, guild, boss, "everything")
    await purged(here, message, boss, "2")
    assert await scalar(here, select(func.count(Persona.id)).where(Persona.guild_id == guild.id)) == 0
    await here.ask(guild, ann, "Who are you?")
    assert "Jack" not in here.engine.requests[-1].messages[0]["content"]


async def test_a_reply_that_is_written_meanwhile_is_shown_but_not_kept(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.ask(guild, ann, "Before")
    here.engine.hang("So far")
    running = await here.discord.chat(guild, ann, "Running")
    await here.discord.until(lambda: "So far" in running.reply())
    waiting = await here.discord.chat(guild, ann, "Waiting")
    await here.discord.until(lambda: waiting.messages())
    message = await question(here, guild, boss, "conversations")
    await purged(here, message, boss, "1")
    await here.discord.until(lambda: "An admin deleted our conversation" in " ".join(waiting.texts()))
    here.engine.release()
    await here.discord.done(running)
    assert "So far" in running.reply()
    assert "So far" not in (await here.use(guild, ann, "history show")).reply()


async def test_purge_is_for_admins_of_that_guild_alone(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    elsewhere, eve = await here.member("eve", manager=True)
    await here.ask(guild, ann, "One")
    assert refused(await here.use(guild, ann, "admin purge", what="everything"), "Manage Server")
    message = await question(here, guild, boss, "conversations")
    opened = await here.discord.press(message, boss, "Delete")
    await here.discord.done(opened)
    sent = await here.discord.force_submit(guild.channel, ann, opened, typed="1")
    await here.discord.done(sent)
    assert refused(sent, "Manage Server")
    [theirs] = (await here.use(elsewhere, eve, "admin purge", what="conversations")).messages()
    custom_id = next(each["custom_id"] for each in message.buttons())
    forged = await here.discord.force_component(theirs, eve, custom_id)
    await here.discord.done(forged)
    await here.discord.done(await here.discord.submit(forged, typed="1"))
    await here.discord.until(lambda: "There is nothing" in theirs.content)
    await purged(here, message, boss, "1")
    undo = next(each["custom_id"] for each in message.buttons())
    forged = await here.discord.force_component(theirs, eve, undo)
    await here.discord.until(lambda: "too late" in theirs.content)
    assert "One" not in (await here.use(guild, ann, "history show")).reply()
    await here.discord.press(message, boss, "Undo")
    await here.discord.until(lambda: "1 conversation is back." in message.content)
    for custom_id in ("admin:purge:", "admin:purge:all:0:0:0:0",
                      "admin:purge:memory:0:0:0:0", "admin:purge-undo:x"):  # fmt: skip
        pressed = await here.discord.force_component(message, boss, custom_id)
        await here.discord.done(pressed)
        assert "use the command again" in " ".join(pressed.texts()), custom_id
