"""/reset here and everywhere, its undo, and what becomes of the messages that wait or run meanwhile."""

from __future__ import annotations

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Interaction, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")


def prompt(here: World) -> list[str]:
    """The texts of the last request to the engine, without the persona."""
    return [message["content"] for message in here.engine.requests[-1].messages[1:]]


def message_of(used: Interaction) -> Message:
    [message] = used.messages()
    assert message.ephemeral
    return message


async def shared_guild(here: World) -> tuple[Guild, User, User]:
    """A guild whose channels each have one conversation for everyone; its admin and a member."""
    guild, boss = await here.member("boss", manager=True)
    await here.use(guild, boss, "config set", scope="channel")
    return guild, boss, here.discord.user("ann")


async def test_b08_undo_works_by_button_within_ten_minutes_and_after_a_restart(both: World) -> None:
    guild, ann = await both.member()
    await both.ask(guild, ann, "One")
    message = message_of(await both.use(guild, ann, "reset", scope="here"))
    assert "our last exchange" in message.content
    await both.bot.stop()
    await both.start_bot()
    await both.discord.press(message, ann, "Undo")
    await both.discord.until(lambda: "goes on" in message.content)
    assert message.buttons() == []
    await both.ask(guild, ann, "Two")
    assert prompt(both) == ["One", "You said: One", "Two"]


async def test_everywhere_ends_all_own_dialogs_and_the_undo_brings_each_back(both: World) -> None:
    guild, ann = await both.member()
    other = both.discord.guild("another guild")
    await both.discord.join(other)
    await both.ask(guild, ann, "In the guild")
    await both.use(guild, ann, "conversation new", name="Travel")
    await both.ask(guild, ann, "Where to?")
    await both.ask(other, ann, "In the other guild")
    dm = both.discord.dm(ann)
    await both.ask(dm, ann, "Alone")
    bob = both.discord.user("bob")
    await both.ask(guild, bob, "Not yours")

    message = message_of(await both.use(guild, ann, "reset", scope="everywhere"))
    assert "4 exchanges in 4 conversations" in message.content
    assert "direct messages" in message.content
    assert "no conversation here" in (await both.use(guild, ann, "conversation list")).reply()
    for place in (guild, other, dm):
        await both.ask(place, ann, "New")
        assert prompt(both) == ["New"]
    await both.ask(guild, bob, "Go on")
    assert prompt(both)[0] == "Not yours"

    assert "go on" in (await both.use(other, ann, "history undo")).reply()
    for place, first in ((guild, "Where to?"), (other, "In the other guild"), (dm, "Alone")):
        await both.ask(place, ann, "Again")
        assert prompt(both) == [first, f"You said: {first}", "Again"]
    # What was said since the reset is kept, too.
    listed = (await both.use(guild, ann, "conversation list")).reply()
    assert "“Travel” · 2 exchanges · **in use**" in listed
    assert "“In the guild” · 1 exchange" in listed
    assert "“New” · 1 exchange" in listed


async def test_only_the_one_who_reset_can_undo_it(both: World) -> None:
    guild, ann = await both.member()
    await both.ask(guild, ann, "One")
    message = message_of(await both.use(guild, ann, "reset", scope="everywhere"))
    bob = both.discord.user("bob")
    custom_id = message.buttons()[0]["custom_id"]
    forged = await both.discord.force_component(message, bob, custom_id)
    await both.discord.done(forged)
    assert "Only the person" in forged.reply()
    in_public = (await both.ask(guild, bob, "Hello")).messages()[0]
    elsewhere = await both.discord.force_component(in_public, bob, custom_id)
    await both.discord.done(elsewhere)
    assert "use the command again" in elsewhere.reply()
    for broken in ("reset:undo:x", "reset:undo:9999999999999999999", "reset:"):
        answer = await both.discord.force_component(message, ann, broken)
        await both.discord.done(answer)
        assert "use the command again" in answer.reply()
    await both.discord.force_component(message, ann, "reset:undo:1")
    await both.discord.until(lambda: "no reset" in message.content)
    await both.ask(guild, ann, "Two")
    assert prompt(both) == ["Two"]


async def test_b23_a_reset_refuses_what_waits_and_forgets_what_runs(both: World) -> None:
    guild, ann = await both.member()
    await both.ask(guild, ann, "Before")
    both.engine.hang("I was ", "saying…")
    running = await both.discord.chat(guild, ann, "Runs")
    await both.discord.until(lambda: "saying" in running.reply())
    asked_before = len(both.engine.requests)
    waiting = [await both.discord.chat(guild, ann, f"Waits {number}") for number in range(2)]
    await both.discord.until(lambda: all(each.callback_type for each in waiting))
    await both.use(guild, ann, "reset")
    for each in waiting:
        await both.discord.done(each)
        assert "You reset our conversation before I came to this message. Please ask again." in each.texts()[-1]
    assert not running.done()
    both.engine.release()
    await both.discord.done(running)
    assert "I was saying…" in running.reply()
    assert len(both.engine.requests) == asked_before
    await both.ask(guild, ann, "After")
    assert prompt(both) == ["After"]


async def test_a_shared_conversation_is_reset_by_managers_only(both: World) -> None:
    guild, boss, ann = await shared_guild(both)
    await both.ask(guild, ann, "From Ann")
    refused = await both.use(guild, ann, "reset")
    assert "Manage Server" in refused.reply()
    assert "Manage Server" in (await both.use(guild, ann, "history undo")).reply()
    await both.ask(guild, boss, "From the boss")
    assert len(prompt(both)) == 3
    message = message_of(await both.use(guild, boss, "reset"))
    forged = await both.discord.force_component(message, ann, message.buttons()[0]["custom_id"])
    await both.discord.done(forged)
    assert "Only the person" in forged.reply()
    await both.ask(guild, ann, "Anew")
    assert len(prompt(both)) == 1
    assert "goes on" in (await both.use(guild, boss, "history undo")).reply()
    await both.ask(guild, ann, "Still there?")
    assert len(prompt(both)) == 5


async def test_everywhere_leaves_shared_conversations_alone(both: World) -> None:
    guild, _, ann = await shared_guild(both)
    await both.ask(guild, ann, "Together")
    dm = both.discord.dm(ann)
    await both.ask(dm, ann, "Alone")
    assert "our last exchange in 1 conversation" in (await both.use(guild, ann, "reset", scope="everywhere")).reply()
    await both.ask(guild, ann, "Go on")
    assert len(prompt(both)) == 3
    assert "goes on" in (await both.use(guild, ann, "history undo")).reply()
    await both.ask(dm, ann, "Still there?")
    assert prompt(both)[0] == "Alone"


async def test_reset_here_covers_a_members_private_conversation_beside_a_shared_one(both: World) -> None:
    guild, boss, ann = await shared_guild(both)
    await both.ask(guild, ann, "To everyone")
    await both.ask(guild, ann, "My secret", private=True)
    reset = message_of(await both.use(guild, ann, "reset"))
    assert "our last exchange in it" in reset.content
    assert "What everyone here shares stays" in reset.content
    await both.ask(guild, ann, "Anew", private=True)
    assert prompt(both) == ["Anew"]
    await both.ask(guild, ann, "Still there?")
    assert len(prompt(both)) == 3
    await both.discord.press(reset, ann, "Undo")
    await both.discord.until(lambda: "goes on" in reset.content)
    await both.ask(guild, ann, "And that?", private=True)
    assert prompt(both)[0] == "My secret"

    # Who manages the guild ends both, and brings both back.
    await both.ask(guild, boss, "A secret of the boss", private=True)
    text = (await both.use(guild, boss, "reset")).reply()
    assert "our last 2 exchanges that everyone here shares, and of our last exchange in our private" in text
    await both.ask(guild, boss, "Nothing?")
    assert len(prompt(both)) == 1
    assert "go on" in (await both.use(guild, boss, "history undo")).reply()
    await both.ask(guild, boss, "Again?", private=True)
    assert prompt(both)[0] == "A secret of the boss"
    await both.ask(guild, ann, "Mine?", private=True)
    assert prompt(both)[0] == "My secret"
