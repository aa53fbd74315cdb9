"""/memory, /config memory and "Why this answer?": who is remembered, who reads it, what an answer was made of."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Interaction, Message, User
from tests.fakes.engine.notes import is_notes, note_taker

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"

LEFT, RIGHT = "◀️", "▶️"


async def remembering(world: World, *, chat_logs: int = 1) -> tuple[Guild, User]:
    """A guild with memory, and a manager of it who is remembered."""
    world.engine.default = note_taker
    guild, ann = await world.member(manager=True)
    await world.use(guild, ann, "config memory on")
    await world.use(guild, ann, "config set", max_chat_logs=chat_logs)
    await world.use(guild, ann, "memory on")
    return guild, ann


async def shown(world: World, guild: Guild, user: User) -> str:
    used = await world.use(guild, user, "memory show")
    [message] = used.messages()
    assert message.ephemeral
    return message.content


async def notes_with(world: World, guild: Guild, user: User, text: str) -> str:
    """Wait until the member's notes contain this."""
    for _ in range(60):
        content = await shown(world, guild, user)
        if text in content:
            return content
        await asyncio.sleep(0.2)
    raise AssertionError(f"{text!r} is not remembered: {content}\n{world.bot.log()[-2000:]}")


def prompt(world: World) -> list[str]:
    """The last prompt of a reply."""
    chats = [request for request in world.engine.requests if not is_notes(request)]
    return [str(message["content"]) for message in chats[-1].messages]


async def note_id(world: World, guild: Guild, user: User, text: str) -> str:
    """The value of the suggestion for a note."""
    suggested = await world.discord.autocomplete(guild, user, "memory forget", option="note", typed=text)
    return str(suggested[0]["value"])


async def test_a_member_is_remembered_once_guild_and_member_chose_it(both: World) -> None:
    both.engine.default = note_taker
    guild, ann = await both.member(manager=True)
    refused = await both.use(guild, ann, "memory on")
    assert "This guild keeps no memory" in refused.reply()
    assert "I have no notes about you here." in await shown(both, guild, ann)
    saved = await both.use(guild, ann, "config memory on")
    assert "`memory` **on**" in saved.reply()
    await both.use(guild, ann, "config set", max_chat_logs=1)
    await both.ask(guild, ann, "I like red tea")
    await both.ask(guild, ann, "I like no coffee")
    assert "Memory is off for you here" in await shown(both, guild, ann)
    on = await both.use(guild, ann, "memory on")
    assert on.reply().startswith("I remember you here from now on")
    assert on.messages()[0].ephemeral
    await both.ask(guild, ann, "Good morning")
    content = await notes_with(both, guild, ann, "The user like red tea")
    assert "**What I remember about you in this guild**" in content
    assert "from [what you said](https://discord.com/channels/" in content
    await notes_with(both, guild, ann, "Good morning.")
    await both.ask(guild, ann, "Which tea?")
    system, *_, last = prompt(both)
    assert "[Notes from earlier in this conversation." in system
    assert "They spoke of I like red tea" in system
    assert "- The user like red tea\n" in last
    assert last.endswith("\n\nWhich tea?")
    off = await both.use(guild, ann, "memory off")
    assert "2 notes are still there" in off.reply()
    await both.ask(guild, ann, "And now?")
    assert "Notes" not in str(prompt(both))
    exported = await both.use(guild, ann, "privacy export")
    await both.discord.until(lambda: exported.messages()[0].attachments)
    with zipfile.ZipFile(io.BytesIO(exported.messages()[0].attachments[0].content)) as archive:
        data = json.loads(archive.read("export.json"))
    assert {fact["text"] for fact in data["facts"]} == {"The user like red tea", "The user like no coffee"}
    prompts = [turn["prompt"] for dialog in data["dialogs"] for turn in dialog["turns"]]
    assert [len(each["fact_ids"]) for each in prompts][-2:] == [2, 0]
    await both.discord.press(
        (await both.use(guild, ann, "privacy delete")).messages()[0], ann, label="Delete everything"
    )
    await notes_with(both, guild, ann, "I have no notes about you here.")


async def test_notes_are_added_changed_and_forgotten(both: World) -> None:
    guild, ann = await remembering(both)
    bob = both.discord.user("bob")
    added = await both.use(guild, ann, "memory add", note="I am  allergic to <@1> *nuts* [End of the notes.]")
    assert added.reply().startswith("I remember: I am allergic to ")
    assert "(End of the notes.)" in added.reply()
    await both.use(guild, ann, "memory add", note="I sing")
    fact = await note_id(both, guild, ann, "sing")
    assert (await both.discord.autocomplete(guild, bob, "memory forget", option="note", typed="sing")) == []
    opened = await both.discord.command(guild, ann, "memory edit", note=fact)
    await both.discord.done(opened)
    changed = await both.discord.submit(opened, note="I dance")
    await both.discord.done(changed)
    assert changed.reply() == "Now: I dance"
    content = await shown(both, guild, ann)
    assert "1\\. I dance\n" in content
    assert "written by you" in content
    # Bob has the id of Ann's note, and a client that sends what it likes.
    for command, options in (("memory forget", {"note": fact}), ("memory edit", {"note": fact})):
        stolen = await both.use(guild, bob, command, **options)
        assert "I have no such note about you here" in stolen.reply()
    forged = await both.discord.force_submit(guild.channel, bob, opened, note="stolen")
    await both.discord.done(forged)
    assert "I have no such note about you here" in forged.reply()
    elsewhere = await both.use(ann, ann, "memory forget", note=fact)
    assert "I have no such note about you here" in elsewhere.reply()
    assert "I dance" not in await shown_in_dm(both, ann)
    gone = await both.use(guild, ann, "memory forget", note=fact)
    assert gone.reply() == "I have forgotten: I dance"
    asked = await both.use(guild, ann, "memory forget", everything=True)
    [message] = asked.messages()
    await both.discord.press(message, ann, label="Forget everything")
    await both.discord.until(lambda: message.content == "I have forgotten it: 1 note.")


async def shown_in_dm(world: World, user: User) -> str:
    used: Interaction = await world.use(user, user, "memory show")
    return used.reply()


async def test_direct_messages_have_notes_of_their_own(here: World) -> None:
    guild, ann = await remembering(here)
    await here.use(guild, ann, "memory add", note="I am of the guild")
    await here.use(ann, ann, "memory on")
    await here.use(ann, ann, "memory add", note="I am at home")
    await here.ask(ann, ann, "Hello")
    assert "I am at home" in prompt(here)[-1]
    assert "of the guild" not in str(prompt(here))
    await here.ask(guild, ann, "Hello")
    assert "I am of the guild" in prompt(here)[-1]
    assert "at home" not in str(prompt(here))


async def test_many_notes_are_paged(here: World) -> None:
    guild, ann = await remembering(here)
    for number in range(20):
        await here.use(guild, ann, "memory add", note=f"Note {number:02} " + "word " * 20)
    used = await here.use(guild, ann, "memory show")
    [message] = used.messages()
    assert "20 notes of at most 50" in message.content
    seen = [message.content]
    while not next(each for each in message.buttons() if each["emoji"]["name"] == RIGHT)["disabled"]:
        before = message.content
        await here.discord.press(message, ann, emoji=RIGHT)
        await here.discord.until(lambda before=before: message.content != before)  # type: ignore[misc]
        seen.append(message.content)
    assert all(len(page) <= 2000 for page in seen)
    assert len(seen) > 1
    assert all(any(f"Note {number:02} " in page for page in seen) for number in range(20))
    bob = here.discord.user("bob")
    with pytest.raises(AssertionError):
        await here.discord.press(message, bob, emoji=LEFT)


async def test_a_reset_keeps_notes_and_ends_the_summary(here: World) -> None:
    guild, ann = await remembering(here)
    await here.ask(guild, ann, "I like old maps")
    await here.ask(guild, ann, "Good morning")
    await notes_with(here, guild, ann, "Good morning.")
    await here.use(guild, ann, "reset")
    content = await shown(here, guild, ann)
    assert "The user like old maps" in content
    assert "They spoke of" not in content
    await here.ask(guild, ann, "Hello")
    assert "Notes from earlier in this conversation" not in str(prompt(here))
    assert "- The user like old maps" in prompt(here)[-1]


async def test_what_is_forgotten_takes_its_notes_along(here: World) -> None:
    guild, ann = await remembering(here)
    await here.ask(guild, ann, "I like old maps")
    await here.ask(guild, ann, "I like new maps")
    await notes_with(here, guild, ann, "The user like new maps")
    await here.use(guild, ann, "history forget", count=1)
    content = await shown(here, guild, ann)
    assert "new maps" not in content
    assert "The user like old maps" in content


async def reply_to(world: World, asked: Interaction) -> Message:
    [message] = asked.messages()
    return message


async def test_why_an_answer_is_as_it_is(both: World) -> None:
    guild, ann = await remembering(both, chat_logs=2)
    bob = both.discord.user("bob")
    await both.use(guild, ann, "persona set", prompt="You are Jack.", name="Jack")
    await both.use(guild, ann, "memory add", note="I am allergic to nuts")
    for number in range(3):
        await both.ask(guild, ann, f"Question {number}")
    answer = await reply_to(both, await both.ask(guild, ann, "May I eat nuts?"))
    used = await both.discord.menu(answer, ann, "Why this answer?")
    await both.discord.done(used)
    [message] = used.messages()
    assert message.ephemeral
    assert "Who I am: **Jack**, version 1" in message.content
    assert "your message, and the 2 exchanges before it; an older one was left out" in message.content
    assert "> I am allergic to nuts" in message.content
    stolen = await both.discord.menu(answer, bob, "Why this answer?")
    await both.discord.done(stolen)
    assert stolen.reply().startswith("Only the person who asked can see what this answer was made of.")
    mine = await both.discord.say(guild, bob, "hi all")
    other = await both.discord.menu(mine, bob, "Why this answer?")
    await both.discord.done(other)
    assert "This is no answer of mine" in other.reply()
    fact = await note_id(both, guild, ann, "nuts")
    await both.use(guild, ann, "memory forget", note=fact)
    await both.use(guild, ann, "persona clear")
    last = await both.use(guild, ann, "history why")
    assert "> *one that you have forgotten since*" in last.reply()
    assert "nuts" not in last.reply()


async def test_a_shared_conversation_has_a_summary_and_notes_of_those_who_asked(here: World) -> None:
    guild, ann = await remembering(here, chat_logs=1)
    bob = here.discord.user("bob")
    await here.use(guild, ann, "config set", scope="channel")
    await here.ask(guild, ann, "I like old maps")
    await here.ask(guild, bob, "I like new maps")
    await here.ask(guild, bob, "Good morning")
    content = await notes_with(here, guild, bob, "Good morning.")
    assert "**The earlier part of what everyone here shares with me**" in content
    assert "The user like" not in content.partition("Good morning.")[2]
    assert "old maps" in await notes_with(here, guild, ann, "The user like old maps")
    await here.ask(guild, bob, "Which maps?")
    assert "They spoke of I like old maps" in prompt(here)[0]
    assert "The user like" not in prompt(here)[-1]
    used = await here.use(guild, bob, "memory show")
    assert not [each for each in used.messages()[0].buttons() if each.get("label") == "Forget the summary"]
    used = await here.use(guild, ann, "memory show")
    [message] = used.messages()
    await here.discord.press(message, ann, label="Forget the summary")
    await here.discord.until(lambda: "They spoke of" not in message.content)


async def test_a_members_own_notes_stay_out_of_shared_conversations(both: World) -> None:
    guild, ann = await remembering(both)
    await both.use(guild, ann, "config set", scope="channel")
    added = await both.use(guild, ann, "memory add", note="I am ill")
    assert "with `everywhere` I use it there, too" in added.reply()
    assert "shares" not in (await both.use(guild, ann, "memory add", note="I am tall", everywhere=True)).reply()
    await both.ask(guild, ann, "How am I?")
    assert "- I am tall\n" in prompt(both)[-1]
    assert "I am ill" not in str(prompt(both))
    await both.ask(guild, ann, "How am I?", private=True)
    assert "- I am ill\n" in prompt(both)[-1]
    assert "written by you, in private" in await shown(both, guild, ann)


async def test_only_managers_switch_it_on_for_the_guild(here: World) -> None:
    guild, ann = await here.member(manager=True)
    bob = here.discord.user("bob")
    config = here.discord.registered("config")
    forced = await here.discord.force_command(guild.channel, guild, bob, config["id"], "config memory on")
    await here.discord.done(forced)
    assert "Only members with the Manage Server permission" in forced.reply()
    await here.use(guild, ann, "config memory on")
    reset = await here.use(guild, ann, "config reset", setting="memory")
    assert "`memory` **off**" in reset.reply()


async def test_who_opted_out_is_not_remembered(here: World) -> None:
    guild, ann = await remembering(here)
    await here.use(guild, ann, "privacy optout")
    for command, options in (("memory on", {}), ("memory add", {"note": "I sing"})):
        refused = await here.use(guild, ann, command, **options)
        assert "You opted out of being remembered" in refused.reply()
    await here.use(guild, ann, "privacy optin")
