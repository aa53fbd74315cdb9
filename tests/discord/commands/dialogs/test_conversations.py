"""/conversation: several conversations of one member, by name; those that a channel shares."""

from __future__ import annotations

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Guild, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"


def prompt(here: World) -> list[str]:
    return [message["content"] for message in here.engine.requests[-1].messages[1:]]


async def said(here: World, guild: Guild, user: User, command: str, **options: str) -> str:
    used = await here.use(guild, user, f"conversation {command}", **options)
    assert all(message.ephemeral for message in used.messages())
    return used.reply()


async def test_conversations_are_kept_apart_and_taken_up_again(both: World) -> None:
    guild, ann = await both.member()
    assert "no conversation here yet" in await said(both, guild, ann, "list")
    await both.ask(guild, ann, "Nameless")
    assert "“Travel”" in await said(both, guild, ann, "new", name=" Travel\n ")
    await both.ask(guild, ann, "Where to?")
    assert prompt(both) == ["Where to?"]
    assert "“Nameless”" in await said(both, guild, ann, "switch", name=await suggested(both, guild, ann, "namel"))
    await both.ask(guild, ann, "Back")
    assert prompt(both) == ["Nameless", "You said: Nameless", "Back"]
    assert "in use already" in await said(both, guild, ann, "switch", name=await suggested(both, guild, ann, "Name"))
    assert "“Travel”" in await said(both, guild, ann, "switch", name="tRAVEL")
    await both.ask(guild, ann, "And then?")
    assert prompt(both)[0] == "Where to?"
    listed = await said(both, guild, ann, "list")
    assert listed.splitlines()[1] == "- “Travel” · 2 exchanges · **in use**"
    assert "“Nameless” · 2 exchanges" in listed


async def suggested(here: World, guild: Guild, user: User, typed: str) -> str:
    choices = await here.discord.autocomplete(guild, user, "conversation switch", option="name", typed=typed)
    assert len(choices) == 1
    return str(choices[0]["value"])


async def test_names_are_checked_and_keys_are_apart(both: World) -> None:
    guild, ann = await both.member()
    bob = both.discord.user("bob")
    await said(both, guild, ann, "new", name="Travel")
    assert "already" in await said(both, guild, ann, "new", name="TRAVEL")
    assert "empty" in await said(both, guild, ann, "new", name="\u200b\u202e")
    assert "new already" in await said(both, guild, bob, "new")
    await both.ask(guild, bob, "Mine")
    of_bob = (await both.discord.autocomplete(guild, bob, "conversation switch", option="name", typed=""))[0]["value"]
    assert await both.discord.autocomplete(guild, bob, "conversation switch", option="name", typed="Travel") == []
    for wanted in ("Travel", of_bob, "0", "no such"):
        used = await said(both, guild, ann if wanted == of_bob else bob, "switch", name=wanted)
        assert "no such conversation" in used
    assert "“@\u200beveryone \\*\\*x\\*\\*”" in await said(both, guild, ann, "rename", name="@everyone **x**")
    assert "“@\u200beveryone \\*\\*x\\*\\*”" in await said(both, guild, ann, "list")


async def test_a_reply_that_runs_stays_in_its_conversation(both: World) -> None:
    guild, ann = await both.member()
    await both.ask(guild, ann, "First")
    both.engine.hang("I was ", "saying…")
    running = await both.discord.chat(guild, ann, "Runs")
    await both.discord.until(lambda: "saying" in running.reply())
    waiting = await both.discord.chat(guild, ann, "Waits")
    await both.discord.until(lambda: waiting.callback_type)
    await said(both, guild, ann, "new", name="Other")
    await both.discord.done(waiting)
    assert "Please ask again" in waiting.texts()[-1]
    both.engine.release()
    await both.discord.done(running)
    assert running.reply().endswith("I was saying…")
    await both.ask(guild, ann, "Elsewhere")
    assert prompt(both) == ["Elsewhere"]
    # A button under a reply of another conversation says where it belongs.
    press = await both.discord.press(running.messages()[0], ann, "Regenerate")
    await both.discord.until(lambda: press.followups)
    assert "/conversation switch" in press.followups[0].content
    await said(both, guild, ann, "switch", name=await suggested(both, guild, ann, "First"))
    await both.ask(guild, ann, "Last")
    assert prompt(both) == ["First", "You said: First", "Runs", "I was saying…", "Last"]


async def test_a_reset_keeps_the_name_and_its_undo_the_pairs(both: World) -> None:
    guild, ann = await both.member()
    await said(both, guild, ann, "new", name="Travel")
    await both.ask(guild, ann, "Where to?")
    await both.use(guild, ann, "reset")
    assert "“Travel” · 0 exchanges · **in use**" in await said(both, guild, ann, "list")
    await both.use(guild, ann, "history undo")
    listed = await said(both, guild, ann, "list")
    assert listed.count("Travel") == 1
    assert "“Travel” · 1 exchange · **in use**" in listed


async def test_deleting_asks_first_and_is_for_good(both: World) -> None:
    guild, ann = await both.member()
    bob = both.discord.user("bob")
    await said(both, guild, ann, "new", name="Travel")
    await both.ask(guild, ann, "Where to?")
    await said(both, guild, ann, "new", name="Other")
    [message] = (await both.use(guild, ann, "conversation delete", name="travel")).messages()
    assert "“Travel” with 1 exchange for good" in message.content
    assert "Travel" in await said(both, guild, ann, "list")
    [own] = (await both.use(guild, bob, "conversation list")).messages()
    forged = await both.discord.force_component(own, bob, message.buttons()[0]["custom_id"])
    await both.discord.until(lambda: forged.followups)
    assert "no such conversation" in forged.followups[0].content
    await both.discord.press(message, ann, "Delete")
    await both.discord.until(lambda: "deleted" in message.content)
    assert message.buttons() == []
    assert "Travel" not in await said(both, guild, ann, "list")
    assert "nothing" in (await both.use(guild, ann, "history search", text="Where")).reply()


async def test_at_most_25_are_kept(both: World) -> None:
    guild, ann = await both.member()
    for number in range(25):
        assert "new conversation" in await said(both, guild, ann, "new", name=f"Number {number}")
    assert "25 conversations" in await said(both, guild, ann, "new", name="One more")
    choices = await both.discord.autocomplete(guild, ann, "conversation delete", option="name", typed="")
    assert len(choices) == 25


async def test_shared_conversations_are_changed_by_managers_only(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    await both.use(guild, boss, "config set", scope="channel")
    ann = both.discord.user("ann")
    await both.ask(guild, ann, "Together")
    for command, options in (
        ("new", {}), ("switch", {"name": "x"}), ("rename", {"name": "x"}), ("delete", {"name": "x"}),
    ):  # fmt: skip
        assert "Manage Server" in await said(both, guild, ann, command, **options)
    assert "Together" in await said(both, guild, ann, "list")
    assert "“Plans”" in await said(both, guild, boss, "new", name="Plans")
    await both.ask(guild, ann, "Anew")
    assert len(prompt(both)) == 1
    assert "“Plans” · 1 exchange · **in use**" in await said(both, guild, ann, "list")


async def test_a_member_who_opted_out_has_none(both: World) -> None:
    guild, ann = await both.member()
    await both.use(guild, ann, "privacy optout")
    assert "opted out" in await said(both, guild, ann, "new", name="Travel")
    assert "no conversation here yet" in await said(both, guild, ann, "list")
