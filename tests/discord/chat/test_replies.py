"""How replies are shown: while they grow, when they are long, when Discord is slow, when their message is deleted."""

from __future__ import annotations

import itertools

import pytest

from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from tests.discord.harness import World
from tests.fakes.discord.server import Interaction

pytestmark = pytest.mark.asyncio(loop_scope="module")


def gaps(asked: Interaction) -> list[float]:
    """Seconds between the edits of each message of a response while it grew; its last edit waits for none."""
    return [
        later - earlier
        for message in asked.messages()
        for (earlier, _), (later, _) in itertools.pairwise(message.edits[:-1])
    ]


async def test_a_growing_reply_is_edited_about_once_a_second(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply(*(f"word{number} " for number in range(60)), pace=0.05)
    asked = await here.ask(guild, ann, "Talk")
    assert asked.reply() == " ".join(f"word{number}" for number in range(60))
    edits = asked.messages()[0].edits
    assert 3 <= len(edits) <= 6
    assert min(gaps(asked)) >= 0.99
    for (_, earlier), (_, later) in itertools.pairwise(edits):
        assert later.startswith(earlier)


async def test_a_quick_reply_takes_a_single_edit(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply(*"Quick as a flash.")
    asked = await here.ask(guild, ann, "Be quick")
    assert [text for _, text in asked.messages()[0].edits] == ["> Be quick\nQuick as a flash."]


async def test_fault_42_a_long_reply_is_split_with_its_code_blocks_closed(here: World) -> None:
    guild, ann = await here.member()
    code = "".join(f"print({number})\n" for number in range(250))
    text = f"Here you are:\n\n```python\n{code}```\nThat is all."
    here.engine.reply(*(text[start : start + 400] for start in range(0, len(text), 400)), pace=0.3)
    asked = await here.discord.chat(guild, ann, "Code, please")
    await here.discord.until(lambda: asked.texts() and asked.texts()[-1].endswith("That is all."))
    texts = asked.texts()
    assert len(texts) == 2
    assert all(len(text) <= MESSAGE_LIMIT and text.count("```") == 2 for text in texts)
    assert texts[0].endswith("\n```")
    assert texts[1].startswith("```python\n")
    assert "".join(texts).replace("``````python\n", "") == text
    assert min(gaps(asked)) >= 0.99


async def test_a_reply_that_repeated_itself_says_so_and_the_note_is_not_remembered(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply("Well. ", *["I am a model. "] * 400)
    asked = await here.ask(guild, ann, "Who are you?")
    assert asked.reply().startswith("Well. I am a model. ")
    assert asked.reply().endswith("I am a model.\n\n-# I noticed that I was repeating myself, so I stopped here.")
    here.engine.reply("Yes.")
    await here.ask(guild, ann, "Again?")
    assert "repeating myself" not in str(here.engine.requests[-1].body)


@pytest.mark.parametrize("private", [True, False])
async def test_a_very_long_reply_ends_in_a_file(here: World, private: bool) -> None:
    guild, ann = await here.member()
    text = "\n".join(f"Line {number} of a very long answer." for number in range(900))
    here.engine.reply(text)
    asked = await here.discord.chat(guild, ann, "Everything", private=private)
    await here.discord.until(lambda: asked.messages() and asked.messages()[-1].attachments)
    messages = asked.messages()
    assert len(messages) == 5
    assert all(message.ephemeral is private for message in messages)
    assert [file.filename for file in messages[-1].attachments] == ["answer.md"]
    assert messages[-1].attachments[0].content.decode() == text


@pytest.mark.parametrize("said", ["", "   \n "])
async def test_an_empty_reply_is_shown_as_no_answer(here: World, said: str) -> None:
    guild, ann = await here.member()
    here.engine.reply(said)
    assert (await here.ask(guild, ann, "Say nothing")).reply() == "(no answer)"
    await here.ask(guild, ann, "And now?")
    assert [message["content"] for message in here.engine.requests[-1].messages[1:]] == ["And now?"]


async def test_fault_32_a_reply_mentions_no_one(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply("".join(f"@everyone <@1> <@&2> @here {number} " for number in range(180)))
    asked = await here.ask(guild, ann, "@everyone")
    await here.discord.until(lambda: len(asked.messages()) == 3)
    assert [message.allowed_mentions for message in asked.messages()] == [{"parse": []}] * 3


async def test_b12_edits_that_meet_429_are_coalesced_and_the_last_text_is_exact(here: World) -> None:
    guild, ann = await here.member()
    here.discord.fail("PATCH", "@original", times=3, retry_after=1.2)
    here.engine.reply(*(f"{number} " for number in range(40)), pace=0.05)
    asked = await here.ask(guild, ann, "Count")
    assert asked.reply() == " ".join(str(number) for number in range(40))
    patches = [request for request in here.discord.sent("PATCH") if asked.token in request.path]
    assert [request.status for request in patches[:3]] == [429] * 3
    assert (
        len({request.body["content"] for request in patches[:4]}) == 1
    )  # one edit waits, and no others queue behind it
    assert len(patches) <= 6


async def test_the_rate_limit_of_follow_ups_is_kept(here: World) -> None:
    guild, ann = await here.member()
    before = here.discord.rest.num_rate_limited
    here.engine.reply(*(f"{number:0>7} " for number in range(1200)), pace=0.003)
    asked = await here.discord.chat(guild, ann, "Count")
    await here.discord.until(lambda: asked.texts() and asked.texts()[-1].endswith("0001199"), timeout=40)
    assert [word for text in asked.texts() for word in text.split()] == [f"{number:0>7}" for number in range(1200)]
    assert here.discord.rest.num_rate_limited - before <= 2


async def test_fault_18_a_reply_is_stored_while_discord_makes_it_wait(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply("Patience.")
    here.discord.fail("PATCH", "@original", times=2, retry_after=2.0)
    asked = await here.discord.chat(guild, ann, "Hello")
    await here.discord.until(lambda: here.discord.sent("PATCH", asked.token))
    second = await here.discord.chat(guild, ann, "Did you say something?")
    await here.discord.until(lambda: "Patience." in str(here.engine.requests[-1].messages))
    assert not asked.done()
    await here.discord.done(asked, second)
    assert asked.reply() == "Patience."


async def test_fault_18_a_final_text_outlasts_the_retries_of_discord_py(here: World) -> None:
    guild, ann = await here.member()
    here.discord.fail("PATCH", "@original", times=7, retry_after=0.05)
    assert (await here.ask(guild, ann, "Are you there?")).reply() == "You said: Are you there?"


async def test_fault_22_a_final_edit_survives_server_errors(here: World) -> None:
    guild, ann = await here.member()
    here.discord.fail("PATCH", "@original", status=500)
    here.discord.fail("PATCH", "@original", status=502)
    assert (await here.ask(guild, ann, "Are you there?")).reply() == "You said: Are you there?"


async def test_a_final_edit_survives_a_lost_connection(here: World) -> None:
    guild, ann = await here.member()
    here.discord.fail("PATCH", "@original", lose="request")
    assert (await here.ask(guild, ann, "Are you there?")).reply() == "You said: Are you there?"


@pytest.mark.parametrize(("status", "code"), [(401, 50027), (404, 10015)])
async def test_fault_20_a_reply_with_a_dead_token_is_posted_in_the_channel(here: World, status: int, code: int) -> None:
    guild, ann = await here.member()
    here.discord.fail("PATCH", "@original", times=99, status=status, code=code)
    here.engine.reply("It took me a while, @everyone.")
    await here.discord.chat(guild, ann, "Think hard")
    await here.discord.until(lambda: here.discord.posts(guild))
    (post,) = here.discord.posts(guild)
    assert post.content == f"<@{ann.id}> It took me a while, @everyone."
    assert post.allowed_mentions == {"parse": []}
    here.discord.rest.faults.clear()
    await here.ask(guild, ann, "What did you say?")
    assert "It took me a while" in str(here.engine.requests[-1].messages)


async def test_fault_20_after_fifteen_minutes_the_channel_gets_the_rest(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("Thinking")
    asked = await here.discord.chat(guild, ann, "Think for long")
    await here.discord.until(lambda: asked.reply() == "Thinking")
    here.discord.advance(901)
    here.engine.release()
    await here.discord.until(lambda: here.discord.posts(guild))
    assert here.discord.posts(guild)[0].content == f"<@{ann.id}> Thinking"
    assert asked.messages() == [], "what it had begun to say is gone"


async def test_an_ephemeral_reply_with_a_dead_token_goes_to_direct_messages(here: World) -> None:
    guild, ann = await here.member()
    here.discord.dm(ann)
    here.discord.fail("PATCH", "@original", times=99, status=401, code=50027)
    await here.discord.chat(guild, ann, "A secret", private=True)
    await here.discord.until(lambda: here.discord.posts(ann))
    assert here.discord.posts(ann)[0].content == "You said: A secret"
    assert here.discord.posts(guild) == []


async def test_in_direct_messages_a_reply_with_a_dead_token_stays_there(here: World) -> None:
    ann = here.discord.user("ann")
    here.discord.fail("PATCH", "@original", times=99, status=401, code=50027)
    await here.discord.chat(ann, ann, "Hello")
    await here.discord.until(lambda: here.discord.posts(ann))
    assert here.discord.posts(ann)[0].content == "You said: Hello"


async def test_without_permission_to_send_the_fallback_is_a_direct_message(here: World) -> None:
    guild, ann = await here.member()
    guild.channel.bot_may_send = False
    here.discord.fail("PATCH", "@original", times=99, status=401, code=50027)
    await here.discord.chat(guild, ann, "Hello")
    await here.discord.until(lambda: here.discord.posts(ann))
    assert "no permission to send" in here.bot.log()
    assert here.discord.posts(ann)[0].content.endswith("You said: Hello")
    assert f"<#{guild.channel.id}>" in here.discord.posts(ann)[0].content
    assert here.discord.posts(guild) == []


async def test_fault_21_a_deleted_message_ends_the_generation(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply(*(["more "] * 400), pace=0.05)
    asked = await here.discord.chat(guild, ann, "Talk for long")
    await here.discord.until(lambda: "more" in asked.reply())
    generation = here.engine.requests[-1]
    assert asked.original
    asked.original.deleted = True
    await here.discord.until(lambda: generation.cancelled, timeout=10)
    await here.ask(guild, ann, "Again")
    assert "Talk for long" not in str(here.engine.requests[-1].messages)


async def test_only_the_member_who_asked_can_stop_a_reply(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    here.engine.hang("I was about to ", "say")
    asked = await here.discord.chat(guild, ann, "Talk")
    await here.discord.until(lambda: asked.messages() and asked.messages()[0].buttons())
    generation = here.engine.requests[-1]
    refused = await here.discord.click(asked.messages()[0], bob)
    await here.discord.done(refused)
    assert "Only the person who asked" in refused.reply()
    await here.discord.click(asked.messages()[0], ann, label="Stop")
    await here.discord.done(asked)
    assert asked.reply() == "I was about to say"
    await here.discord.until(lambda: generation.cancelled)
    await here.ask(guild, ann, "Go on")
    assert "I was about to say" in str(here.engine.requests[-1].messages)


async def test_a_stop_button_clicked_too_late_is_removed(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("So")
    asked = await here.discord.chat(guild, ann, "Talk")
    await here.discord.until(lambda: asked.messages() and asked.messages()[0].buttons())
    message = asked.messages()[0]
    buttons = message.components
    here.engine.release()
    await here.discord.done(asked)
    message.components = buttons  # as a client shows it that has not received the last edit yet
    clicked = await here.discord.click(message, ann)
    await here.discord.until(lambda: clicked.followups)
    assert "not writing" in clicked.followups[0].content
    assert message.components == []
    assert asked.reply() == "So"


async def test_an_engine_crash_during_a_reply_leaves_one_ephemeral_error(here: World) -> None:
    guild, ann = await here.member()
    here.engine.drop("Half of ", "a ")
    asked = await here.ask(guild, ann, "Say it all")
    assert len(asked.messages()) == 1
    assert asked.messages()[0].ephemeral
    assert "(error " in asked.reply()
    assert "Half of" not in asked.reply()
    await here.ask(guild, ann, "Again")
    assert "Say it all" not in str(here.engine.requests[-1].messages)


async def test_fault_05_two_messages_of_one_member_are_answered_in_order(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("First")
    first = await here.discord.chat(guild, ann, "One")
    await here.discord.until(lambda: "First" in first.reply())
    second = await here.discord.chat(guild, ann, "Two")
    bob = here.discord.user("bob")
    assert (await here.ask(guild, bob, "Me too")).reply() == "You said: Me too"  # other members do not wait
    assert not second.done()
    here.engine.release()
    await here.discord.done(first, second)
    assert [message["content"] for message in here.engine.requests[-1].messages[1:]] == ["One", "First", "Two"]
