"""Each command in guilds and in direct messages: what it says, to whom, and who may use it."""

from __future__ import annotations

import io
import zipfile

import pytest

from tests.discord.harness import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_chat_answers_in_public_and_remembers(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply("Hello ", "Ann.")
    first = await here.ask(guild, ann, "Hi")
    assert first.reply() == "Hello Ann."
    assert not first.messages()[0].ephemeral
    await here.ask(guild, ann, "And now?")
    prompt = here.engine.requests[-1].messages
    assert [message["content"] for message in prompt[1:]] == ["Hi", "Hello Ann.", "And now?"]


async def test_a_private_chat_is_ephemeral(here: World) -> None:
    guild, ann = await here.member()
    asked = await here.ask(guild, ann, "Psst", private=True)
    assert asked.reply() == "You said: Psst"
    assert asked.messages()[0].ephemeral


async def test_direct_messages_are_a_separate_dialog(here: World) -> None:
    guild, ann = await here.member()
    await here.ask(guild, ann, "A secret of the guild")
    asked = await here.ask(ann, ann, "Hello from home")
    assert asked.reply() == "You said: Hello from home"
    assert "secret" not in str(here.engine.requests[-1].messages)


async def test_two_members_of_one_guild_do_not_share_a_dialog(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    await here.ask(guild, ann, "My cat is called Turing")
    await here.ask(guild, bob, "What is the cat called?")
    assert "Turing" not in str(here.engine.requests[-1].messages)


async def test_commands_are_registered_with_their_contexts_and_permissions(here: World) -> None:
    commands = {command["name"]: command for command in here.discord.rest.commands}
    in_guilds = {"persona", "scene", "config", "thread", "admin", "report", "Report this answer"}
    everywhere = {
        "chat", "regenerate", "reset", "history", "conversation", "me", "memory", "privacy", "quota", "queue", "help",
        "Ask about this",
        "Import character card", "Why this answer?",
    }  # fmt: skip
    assert set(commands) == in_guilds | everywhere
    for name in in_guilds:
        assert commands[name]["default_member_permissions"] == (str(1 << 5) if name in ("config", "admin") else None)
        assert commands[name]["contexts"] == [0]
        assert commands[name]["integration_types"] == [0]
    for name in everywhere:
        assert commands[name]["contexts"] == [0, 1, 2]
        assert commands[name]["integration_types"] == [0, 1]
        assert commands[name]["default_member_permissions"] is None
    assert {name: command["type"] for name, command in commands.items() if command["type"] != 1} == {
        "Ask about this": 3,
        "Why this answer?": 3,
        "Import character card": 3,
        "Report this answer": 3,
    }
    options = {"message", "private", "file", "file2", "file3", "file4"}
    assert {option["name"] for option in commands["chat"]["options"]} == options
    guilds, messages, reactions = 1 << 0, 1 << 9 | 1 << 12, 1 << 10 | 1 << 13
    assert here.discord.gateway.connected[0].intents == guilds | messages | reactions  # none is privileged


async def test_a_guilds_persona_is_told_to_the_model_and_survives_reset(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    saved = await here.use(guild, boss, "persona set", prompt="You are a pirate.", name="Jack")
    assert "**Jack**" in saved.reply()
    assert saved.messages()[0].ephemeral
    ann = here.discord.user("ann")
    await here.ask(guild, ann, "Who are you?")
    assert here.engine.requests[-1].messages[0] == {"role": "system", "content": "You are a pirate."}
    await here.use(guild, ann, "reset")
    await here.ask(guild, ann, "And now?")
    prompt = here.engine.requests[-1].messages
    assert [message["content"] for message in prompt] == ["You are a pirate.", "And now?"]
    shown = await here.use(guild, boss, "persona show")
    assert "You are a pirate." in shown.reply()
    await here.use(guild, boss, "persona clear")
    await here.ask(guild, ann, "Still a pirate?")
    assert here.engine.requests[-1].messages[0]["content"] != "You are a pirate."


async def test_a_members_persona_precedes_the_guilds_and_is_theirs_alone(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    await here.use(guild, boss, "persona set", prompt="You are a pirate.")
    await here.use(guild, ann, "me persona set", prompt="You are a nun.")
    await here.ask(guild, ann, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] == "You are a nun."
    await here.ask(guild, boss, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] == "You are a pirate."
    other, _ = await here.member("other")
    await here.ask(other, ann, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] not in ("You are a nun.", "You are a pirate.")
    assert "You are a nun." in (await here.use(guild, ann, "me persona show")).reply()
    await here.use(guild, ann, "me persona clear")
    await here.ask(guild, ann, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] == "You are a pirate."


@pytest.mark.parametrize("command", ["persona set", "me persona set"])
async def test_without_a_prompt_a_modal_opens(here: World, command: str) -> None:
    guild, boss = await here.member("boss", manager=True)
    opened = await here.use(guild, boss, command)
    assert opened.modal is not None
    sent = await here.discord.submit(opened, prompt="You are a gardener.\nYou love roses.", name="Rose")
    await here.discord.done(sent)
    assert "**Rose**" in sent.reply()
    await here.ask(guild, boss, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] == "You are a gardener.\nYou love roses."
    again = await here.use(guild, boss, command)
    assert "You love roses." in str(again.modal)  # the modal starts with the current persona


@pytest.mark.parametrize("command", ["persona set", "persona versions", "persona clear"])
async def test_fault_33_a_guilds_persona_is_refused_to_members_and_in_direct_messages(
    here: World, command: str
) -> None:
    guild, ann = await here.member()
    boss = here.discord.user("boss")
    guild.managers.add(boss.id)
    await here.use(guild, boss, "persona set", prompt="You are a pirate.")
    options = {"prompt": "You are evil."} if command.endswith("set") else {}
    refused = await here.use(guild, ann, command, **options)
    assert "Manage Server" in refused.reply()
    assert refused.callback_type == 4
    assert refused.messages()[0].ephemeral
    registered = next(each for each in here.discord.rest.commands if each["name"] == "persona")
    in_dm = await here.discord.force_command(here.discord.dm(boss), None, boss, registered["id"], command, **options)
    await here.discord.done(in_dm)
    assert "not in direct messages" in in_dm.reply()
    guild.managers.discard(boss.id)  # the permission was taken away
    assert "Manage Server" in (await here.use(guild, boss, command, **options)).reply()
    await here.ask(guild, ann, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] == "You are a pirate."


async def test_a_submitted_modal_is_checked_like_a_command(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    opened = await here.use(guild, boss, "persona set")
    guild.managers.clear()
    sent = await here.discord.submit(opened, prompt="You are evil.")
    await here.discord.done(sent)
    assert "Manage Server" in sent.reply()
    await here.ask(guild, boss, "Who are you?")
    assert "evil" not in str(here.engine.requests[-1].messages)


async def test_reset_says_how_much_is_forgotten(here: World) -> None:
    guild, ann = await here.member()
    await here.ask(guild, ann, "One")
    await here.ask(guild, ann, "Two")
    said = await here.use(guild, ann, "reset")
    assert "2 exchanges" in said.reply()
    assert said.messages()[0].ephemeral
    assert "nothing to forget" in (await here.use(guild, ann, "reset")).reply()


async def test_fault_09_reset_during_a_reply_shows_it_and_forgets_it(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("I was ", "saying…")
    running = await here.discord.chat(guild, ann, "Tell me")
    await here.discord.until(lambda: "saying" in running.reply())
    await here.use(guild, ann, "reset")
    here.engine.release()
    await here.discord.done(running)
    assert running.reply() == "I was saying…"
    await here.ask(guild, ann, "Again")
    assert [message["content"] for message in here.engine.requests[-1].messages[1:]] == ["Again"]


async def test_history_shows_only_the_members_own_dialog(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    assert "not begun" in (await here.use(guild, ann, "history show")).reply()
    await here.ask(guild, ann, "One")
    await here.ask(guild, bob, "Not yours")
    await here.ask(guild, ann, "Two")
    shown = await here.use(guild, ann, "history show")
    assert shown.reply() == "**You:** One\n**Me:** You said: One\n\n**You:** Two\n**Me:** You said: Two"
    assert shown.messages()[0].ephemeral
    assert "One" not in (await here.use(guild, ann, "history show", count=1)).reply()
    await here.use(guild, ann, "reset")
    assert "not begun" in (await here.use(guild, ann, "history show")).reply()


async def test_help_lists_what_the_member_may_use(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    all_of_it = await here.use(guild, boss, "help")
    await here.discord.until(lambda: "**/config**" in "".join(each.content for each in all_of_it.messages()))
    assert all(message.ephemeral for message in all_of_it.messages())
    ann = here.discord.user("ann")
    helped = await here.use(guild, ann, "help")
    assert "**/chat**" in helped.reply()
    assert "in this guild" not in helped.reply()
    assert helped.messages()[0].ephemeral


@pytest.mark.parametrize(
    ("text", "said"), [("   ", "empty"), ("a\x00b", "NUL"), ("x" * 4001, "the limit is 4,000")], ids=str.__len__
)
async def test_fault_41_an_invalid_message_is_refused_with_an_error_id(here: World, text: str, said: str) -> None:
    guild, ann = await here.member()
    asked_before = len(here.engine.requests)
    refused = await here.ask(guild, ann, text)
    assert said in refused.reply()
    assert "(error " in refused.reply()
    assert refused.original
    assert refused.original.deleted  # the public "thinking…"
    assert [message.ephemeral for message in refused.messages()] == [True]
    assert len(here.engine.requests) == asked_before


async def test_fault_30_a_persona_over_the_limit_is_refused_as_option_and_as_modal(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    refused = await here.use(guild, boss, "persona set", prompt="x" * 6000)
    assert "the limit is 4,000" in refused.reply()
    opened = await here.use(guild, boss, "persona set")
    sent = await here.discord.submit(opened, prompt="x" * 100_000)
    await here.discord.done(sent)
    assert "the limit is 4,000" in sent.reply()
    assert "no persona" in (await here.use(guild, boss, "persona show")).reply()


async def test_an_unknown_button_gets_an_error_message(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("Wait…")
    asked = await here.discord.chat(guild, ann, "Hi")
    await here.discord.until(lambda: asked.messages() and asked.messages()[0].buttons())
    asked.messages()[0].buttons()[0]["custom_id"] = "dance:1"
    clicked = await here.discord.click(asked.messages()[0], ann)
    await here.discord.done(clicked)
    assert "older version" in clicked.reply()
    here.engine.release()
    await here.discord.done(asked)


async def test_privacy_shows_exports_and_deletes_the_members_own_data(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    await here.ask(guild, ann, "My cat is called Turing")
    await here.ask(guild, bob, "My dog is called Lovelace")
    shown = await here.use(guild, ann, "privacy show")
    assert "- turns: 1" in shown.reply()
    exported = await here.use(guild, ann, "privacy export")
    await here.discord.until(lambda: exported.messages()[0].attachments)
    with zipfile.ZipFile(io.BytesIO(exported.messages()[0].attachments[0].content)) as archive:
        copy = "".join(archive.read(name).decode() for name in archive.namelist())
    assert "Turing" in copy
    assert "Lovelace" not in copy
    asked = await here.discord.command(guild, ann, "privacy delete")
    await here.discord.until(lambda: asked.messages() and asked.messages()[0].buttons())
    assert asked.messages()[0].ephemeral
    await here.discord.click(asked.messages()[0], ann)
    await here.discord.until(lambda: "Receipt" in asked.messages()[0].content)
    await here.ask(guild, ann, "What is the cat called?")
    assert "Turing" not in str(here.engine.requests[-1].messages)
    await here.ask(guild, bob, "What is the dog called?")
    assert "Lovelace" in str(here.engine.requests[-1].messages)
    for used in (shown, exported, asked):
        assert used.messages()[0].ephemeral


async def test_only_the_member_can_confirm_their_deletion(here: World) -> None:
    guild, ann = await here.member()
    await here.ask(guild, ann, "Remember me")
    asked = await here.discord.command(guild, ann, "privacy delete")
    await here.discord.until(lambda: asked.messages() and asked.messages()[0].buttons())
    bob = here.discord.user("bob")
    clicked = await here.discord.click(asked.messages()[0], bob)
    await here.discord.done(clicked)
    assert "Only the person" in clicked.reply()
    await here.ask(guild, ann, "Still there?")
    assert "Remember me" in str(here.engine.requests[-1].messages)


async def test_a_member_who_opted_out_is_answered_and_not_remembered(here: World) -> None:
    guild, ann = await here.member()
    await here.use(guild, ann, "privacy optout")
    assert (await here.ask(guild, ann, "Off the record")).reply() == "You said: Off the record"
    await here.use(guild, ann, "privacy optin")
    await here.ask(guild, ann, "On the record")
    assert "Off the record" not in str(here.engine.requests[-1].messages)
