"""/config: what a guild sets applies to its members."""

from __future__ import annotations

import pytest

from tests.discord.commands.command_kit import audited, refused
from tests.discord.harness import World
from tests.fakes.discord.server import Interaction

pytestmark = pytest.mark.asyncio(loop_scope="module")


def prompt(here: World) -> list[str]:
    """The messages of the last request to the model, without the persona."""
    return [message["content"] for message in here.engine.requests[-1].messages[1:]]


def refused_at_once(asked: Interaction, because: str) -> bool:
    """Refused without a public "thinking…" before it."""
    return refused(asked, because) and asked.callback_type == 4


async def test_a_setting_applies_is_shown_is_audited_and_can_be_reset(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    shown = await here.use(guild, boss, "config show")
    assert "`max_chat_logs` **10** (the default)" in shown.reply()
    assert "`channels` **all**" in shown.reply()
    saved = await here.use(guild, boss, "config set", max_chat_logs=1, max_reply_tokens=7)
    assert "`max_chat_logs` **1** (chosen" in saved.reply()
    assert saved.messages()[0].ephemeral
    ann = here.discord.user("ann")
    for text in ("One", "Two", "Three"):
        await here.ask(guild, ann, text)
    assert prompt(here) == ["Two", "You said: Two", "Three"]
    assert here.engine.requests[-1].body["max_tokens"] == 7
    await here.use(guild, boss, "config reset", setting="max_chat_logs")
    await here.ask(guild, ann, "Four")
    assert prompt(here)[0] == "One"
    assert here.engine.requests[-1].body["max_tokens"] == 7
    everything = await here.use(guild, boss, "config reset", setting="everything")
    assert "`max_reply_tokens` **512** (the default)" in everything.reply()
    records = await audited(here, guild)
    assert [record.details for record in records] == [
        {"max_reply_tokens": {"old": 7, "new": None}},
        {"max_chat_logs": {"old": 1, "new": None}},
        {"max_chat_logs": {"old": None, "new": 1}, "max_reply_tokens": {"old": None, "new": 7}},
    ]
    assert {record.actor_id for record in records} == {boss.id}


@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [("max_chat_logs", 11, "10"), ("max_reply_tokens", 513, "512"), ("retention_days", 31, "30")],
)
async def test_a_value_above_the_operators_limit_is_refused(here: World, option: str, value: int, limit: str) -> None:
    guild, boss = await here.member("boss", manager=True)
    said = await here.use(guild, boss, "config set", daily_messages=3, **{option: value})
    assert f"`{option}` can be {limit} at most" in said.reply()
    shown = await here.use(guild, boss, "config show")
    assert "`daily_messages` **no limit**" in shown.reply()  # all or nothing
    assert await audited(here, guild) == []


async def test_config_set_without_a_setting_is_refused(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    assert "at least one setting" in (await here.use(guild, boss, "config set")).reply()


@pytest.mark.parametrize("command", ["config show", "config set", "config reset", "config channels clear"])
async def test_config_is_refused_to_members_even_from_a_modified_client(here: World, command: str) -> None:
    guild, ann = await here.member()
    options: dict[str, str | int] = {"config set": {"max_chat_logs": 0}, "config reset": {"setting": "roles"}}.get(
        command, {}
    )
    assert refused_at_once(await here.use(guild, ann, command, **options), "Manage Server")
    registered = next(each for each in here.discord.rest.commands if each["name"] == "config")
    in_dm = await here.discord.force_command(here.discord.dm(ann), None, ann, registered["id"], command, **options)
    await here.discord.done(in_dm)
    assert refused_at_once(in_dm, "not in direct messages")


async def test_the_bot_answers_only_in_listed_channels_and_their_threads(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    bots = here.discord.channel(guild, "bots")
    thread = here.discord.channel(guild, "a thread", parent=bots)
    elsewhere = here.discord.channel(guild, "elsewhere", parent=guild.channel)
    added = await here.use(guild, boss, "config channels add", channel=bots)
    assert f"`channels` <#{bots.id}>" in added.reply()
    asked_before = len(here.engine.requests)
    for place in (guild, elsewhere):
        for person in (ann, boss):
            assert refused_at_once(await here.ask(place, person, "Hi"), f"Ask me in <#{bots.id}>.")
    assert refused_at_once(await here.use(guild, ann, "regenerate"), f"Ask me in <#{bots.id}>.")
    assert len(here.engine.requests) == asked_before
    assert (await here.ask(bots, ann, "Hi")).reply() == "You said: Hi"
    assert (await here.ask(thread, ann, "Hi again")).reply() == "You said: Hi again"
    # Members reach their own data everywhere.
    assert "Hi again" in (await here.use(guild, ann, "history show")).reply()
    assert (await here.ask(ann, ann, "At home")).reply() == "You said: At home"
    await here.use(guild, boss, "config channels add", channel=elsewhere)  # a thread, without its channel
    assert (await here.ask(elsewhere, ann, "Here too")).reply() == "You said: Here too"
    await here.use(guild, boss, "config channels remove", channel=bots)
    assert refused_at_once(await here.ask(bots, ann, "Still?"), f"<#{elsewhere.id}>")
    await here.use(guild, boss, "config channels clear")
    assert (await here.ask(guild, ann, "Everywhere")).reply() == "You said: Everywhere"


async def test_the_bot_answers_only_listed_roles_in_that_guild(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    friends = here.discord.role(guild, "friends", ann)
    added = await here.use(guild, boss, "config roles add", role=friends)
    assert f"`roles` <@&{friends.id}>" in added.reply()
    assert (await here.ask(guild, ann, "Hi")).reply() == "You said: Hi"
    assert refused_at_once(await here.ask(guild, bob, "Hi"), f"<@&{friends.id}>")
    friends.members.discard(ann.id)  # the role was taken away
    assert refused_at_once(await here.ask(guild, ann, "Hi"), f"<@&{friends.id}>")
    other, _ = await here.member("other")
    assert (await here.ask(other, bob, "Hi")).reply() == "You said: Hi"  # the rule applies to the first guild only
    await here.use(guild, boss, "config roles remove", role=friends)
    assert (await here.ask(guild, bob, "Hi")).reply() == "You said: Hi"


async def test_a_used_up_daily_quota_is_refused_with_its_reset_time(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    helpers = here.discord.role(guild, "helpers", bob)
    await here.use(guild, boss, "config set", daily_messages=1)
    said = await here.use(guild, boss, "config roles quota", role=helpers, daily_messages=2)
    assert f"<@&{helpers.id}> 2" in said.reply()
    assert "`roles` **everybody**" in said.reply()  # a quota does not restrict who may chat
    await here.ask(guild, ann, "One")
    asked = await here.ask(guild, ann, "Two")
    assert "1 message a day" in asked.reply()
    assert "00:00 UTC" in asked.reply()
    assert [message.ephemeral for message in asked.messages()] == [True]
    assert "Two" not in (await here.use(guild, ann, "history show")).reply()
    for text in ("One", "Two"):
        assert (await here.ask(guild, bob, text)).reply() == f"You said: {text}"
    assert "2 messages a day" in (await here.ask(guild, bob, "Three")).reply()
    assert (await here.ask(ann, ann, "At home")).reply() == "You said: At home"
    await here.use(guild, boss, "config roles quota", role=helpers)
    await here.use(guild, boss, "config reset", setting="daily_messages")
    assert (await here.ask(guild, ann, "Three")).reply() == "You said: Three"


async def test_the_scope_decides_which_messages_share_a_dialog(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    games = here.discord.channel(guild, "games")
    chess, go = (here.discord.channel(guild, name, parent=games) for name in ("chess", "go"))
    await here.ask(guild, ann, "general, user scope")
    await here.ask(games, ann, "games, user scope")
    assert len(prompt(here)) == 3
    changed = await here.use(guild, boss, "config set", scope="member-channel")
    assert "going back to it finds them again" in changed.reply()
    await here.ask(games, ann, "games")
    assert prompt(here) == ["games"]
    await here.ask(chess, ann, "chess")
    assert prompt(here)[0] == "games"  # a thread counts as its channel
    await here.ask(guild, ann, "general")
    assert prompt(here) == ["general"]
    await here.ask(games, boss, "the boss's own")
    assert prompt(here) == ["the boss's own"]
    assert "our last 2 exchanges" in (await here.use(games, ann, "reset")).reply()
    assert "general" in (await here.use(guild, ann, "history show")).reply()  # the reset was about games
    await here.use(guild, boss, "config set", scope="member-thread")
    await here.ask(chess, ann, "chess alone")
    await here.ask(go, ann, "go alone")
    assert prompt(here) == ["go alone"]
    await here.ask(chess, ann, "chess again")
    assert prompt(here)[0] == "chess alone"
    await here.ask(guild, ann, "general again")
    assert prompt(here)[0] == "general"
    await here.use(guild, boss, "config reset", setting="scope")
    await here.ask(go, ann, "user scope again")
    assert prompt(here)[0] == "general, user scope"


async def test_guild_rules_hold_after_a_restart_before_they_are_cached(here: World) -> None:
    """For the first message the rules are read after the defer, and the pending response is deleted."""
    guild, boss = await here.member("boss", manager=True)
    bots = here.discord.channel(guild, "bots")
    await here.use(guild, boss, "config channels add", channel=bots)
    await here.bot.stop()
    await here.start_bot()
    asked_before = len(here.engine.requests)
    first = await here.ask(guild, boss, "Hi")
    assert f"<#{bots.id}>" in first.reply()
    assert [message.ephemeral for message in first.messages()] == [True]
    assert first.original
    assert first.original.deleted
    assert refused_at_once(await here.ask(guild, boss, "Hi again"), f"<#{bots.id}>")
    assert len(here.engine.requests) == asked_before


async def test_a_persona_can_be_rolled_back(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    assert "no persona" in (await here.use(guild, boss, "persona versions")).reply()
    await here.use(guild, boss, "persona set", prompt="You are a pirate.", name="Jack")
    await here.use(guild, boss, "persona set", prompt="You are a nun.")
    listed = (await here.use(guild, boss, "persona versions")).reply()
    assert "2\\. " in listed
    assert "**Jack** · You are a pirate." in listed
    assert listed.index("in force") < listed.index("Jack")
    assert "no version 7" in (await here.use(guild, boss, "persona rollback", version=7)).reply()
    assert "**Jack**" in (await here.use(guild, boss, "persona rollback", version=1)).reply()
    await here.ask(guild, boss, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] == "You are a pirate."
    ann = here.discord.user("ann")
    assert refused_at_once(await here.use(guild, ann, "persona rollback", version=2), "Manage Server")
    assert "no persona of your own" in (await here.use(guild, ann, "me persona versions")).reply()
    assert "no version 1" in (await here.use(guild, ann, "me persona rollback", version=1)).reply()


async def test_a_reset_can_be_undone_also_after_the_next_message(here: World) -> None:
    guild, ann = await here.member()
    assert "no reset" in (await here.use(guild, ann, "history undo")).reply()
    await here.ask(guild, ann, "One")
    assert "`/history undo`" in (await here.use(guild, ann, "reset")).reply()
    bob = here.discord.user("bob")
    assert "no reset" in (await here.use(guild, bob, "history undo")).reply()
    assert "goes on" in (await here.use(guild, ann, "history undo")).reply()
    await here.ask(guild, ann, "Two")
    assert prompt(here) == ["One", "You said: One", "Two"]
    await here.use(guild, ann, "reset")
    await here.ask(guild, ann, "Three")
    assert "`/conversation list`" in (await here.use(guild, ann, "history undo")).reply()
    await here.ask(guild, ann, "Four")
    assert prompt(here) == ["One", "You said: One", "Two", "You said: Two", "Four"]
    assert "“Three”" in (await here.use(guild, ann, "conversation list")).reply()


async def test_the_last_exchanges_can_be_forgotten(here: World) -> None:
    guild, ann = await here.member()
    for text in ("One", "Two", "Three"):
        await here.ask(guild, ann, text)
    assert "our last exchange." in (await here.use(guild, ann, "history forget")).reply()
    assert "our last 2 exchanges." in (await here.use(guild, ann, "history forget", count=5)).reply()
    assert "nothing to forget" in (await here.use(guild, ann, "history forget")).reply()
    await here.ask(guild, ann, "Four")
    assert prompt(here) == ["Four"]


async def test_a_regenerated_reply_replaces_the_last_one(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    assert "no answer" in (await here.use(guild, ann, "regenerate")).reply()
    await here.ask(guild, ann, "One")
    here.engine.reply("A bad answer")
    first = await here.ask(guild, ann, "Two")
    assert "no answer" in (await here.use(guild, bob, "regenerate")).reply()  # of their own
    here.engine.reply("A better answer")
    again = await here.use(guild, ann, "regenerate")
    assert (first.reply(), again.reply()) == ("A bad answer", "A better answer")
    assert prompt(here) == ["One", "You said: One", "Two"]
    hidden = await here.use(guild, ann, "regenerate", private=True)
    assert hidden.messages()[0].ephemeral
    here.engine.fail(500)
    assert "(error " in (await here.use(guild, ann, "regenerate")).reply()
    await here.ask(guild, ann, "Three")
    assert prompt(here) == ["One", "You said: One", "Two", "You said: Two", "Three"]


async def test_a_regenerated_reply_can_be_stopped(here: World) -> None:
    guild, ann = await here.member()
    await here.ask(guild, ann, "One")
    here.engine.hang("So far", " so good")
    again = await here.discord.command(guild, ann, "regenerate")
    await here.discord.until(lambda: again.messages() and again.messages()[0].buttons())
    await here.discord.click(again.messages()[0], ann, label="Stop")
    await here.discord.done(again)
    here.engine.release()
    assert again.reply() == "So far so good"
    await here.ask(guild, ann, "Two")
    assert prompt(here) == ["One", "So far so good", "Two"]
