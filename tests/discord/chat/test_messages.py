"""Messages to the bot: mentions, replies and direct messages, and what becomes of them while the reply is written."""

from __future__ import annotations

import asyncio

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(here: World, where: Guild | User, user: User, text: str, **options: object) -> Message:
    """Write a message and wait for the one complete reply to it."""
    asked = await here.discord.say(where, user, text, **options)  # type: ignore[arg-type]
    [answer] = await here.discord.answered(asked)
    return answer


async def quiet(here: World, message: Message, seconds: float = 0.6) -> None:
    """Nothing is answered to this message."""
    await asyncio.sleep(seconds)
    assert here.discord.answers(message) == []


async def test_a_mention_is_answered_as_a_reply_and_remembered(here: World) -> None:
    guild, ann = await here.member()
    bot = here.discord.bot
    here.engine.reply("Hello ", "Ann.")
    first = await ask(here, guild, ann, f"<@{bot.id}> Hi there")
    assert first.content == "Hello Ann."
    assert here.engine.requests[-1].messages[-1]["content"] == "Hi there"
    await ask(here, guild, ann, f"And <@!{bot.id}> now?")
    prompt = here.engine.requests[-1].messages
    assert [message["content"] for message in prompt[1:]] == ["Hi there", "Hello Ann.", "And now?"]


async def test_a_reply_to_the_bots_message_goes_on_without_a_mention(here: World) -> None:
    guild, ann = await here.member()
    first = await ask(here, guild, ann, f"<@{here.discord.bot.id}> My cat is Turing")
    second = await ask(here, guild, ann, "What is my cat called?", reply_to=first)
    assert second.content == "You said: What is my cat called?"
    assert "Turing" in str(here.engine.requests[-1].messages)


async def test_a_direct_message_needs_no_mention_and_shares_the_dialog_of_chat(here: World) -> None:
    _, ann = await here.member()
    assert (await ask(here, ann, ann, "Hello from home")).content == "You said: Hello from home"
    await here.ask(ann, ann, "And by command")
    assert "Hello from home" in str(here.engine.requests[-1].messages)


async def test_other_messages_bots_webhooks_and_code_get_no_answer(here: World) -> None:
    guild, ann = await here.member()
    mention = f"<@{here.discord.bot.id}>"
    other_bot = here.discord.user("robot", bot=True)
    await quiet(here, await here.discord.say(guild, ann, "Nothing for you"))
    await quiet(here, await here.discord.say(guild, other_bot, f"{mention} hello"))
    await quiet(here, await here.discord.say(guild, ann, f"{mention} hello", webhook=True))
    await quiet(here, await here.discord.say(guild, ann, f"In code `{mention} hello`, not meant"))
    await quiet(here, await here.discord.say(guild, ann, "@everyone hello"))
    assert not here.engine.requests or mention not in str(here.engine.requests[-1].messages)


async def test_b25_a_reply_to_a_deleted_message_is_answered_all_the_same(here: World) -> None:
    guild, ann = await here.member()
    gone = await here.discord.say(guild, ann, "Soon gone")
    await here.discord.delete(gone)
    answer = await ask(here, guild, ann, f"<@{here.discord.bot.id}> still there?", reply_to=gone)
    assert answer.content == "You said: still there?"


async def test_a_message_of_only_a_mention_is_answered_with_a_hint(here: World) -> None:
    guild, ann = await here.member()
    requests = len(here.engine.requests)
    answer = await ask(here, guild, ann, f"<@{here.discord.bot.id}>")
    assert answer.content.startswith("Yes? Write what you want to say")
    assert len(here.engine.requests) == requests


async def test_names_stand_in_place_of_ids_in_the_prompt(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    await ask(here, guild, ann, f"<@{here.discord.bot.id}> greet <@{bob.id}> please")
    assert here.engine.requests[-1].messages[-1]["content"] == "greet @Bob please"


async def test_b17_a_message_replayed_after_a_resume_is_answered_once(here: World) -> None:
    guild, ann = await here.member()
    here.discord.gateway.num_replayed_again = 3
    try:
        asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> once only")
        await here.discord.answered(asked)
        await here.discord.gateway.close(4000)
        await here.discord.until_ready()
        await asyncio.sleep(1.0)
    finally:
        here.discord.gateway.num_replayed_again = 0
    assert len(here.discord.answers(asked)) == 1


async def test_an_edit_of_the_question_restarts_its_reply_once(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("First words ")
    asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> two plus two")
    await here.discord.until(lambda: here.discord.answers(asked))
    await here.discord.edit(asked, f"<@{here.discord.bot.id}> three plus three")
    [answer] = await here.discord.answered(asked)
    await here.discord.until(lambda: answer.content == "You said: three plus three")
    here.engine.release()
    await here.ask(guild, ann, "And?")
    assert "two plus two" not in str(here.engine.requests[-1].messages)


async def test_a_deleted_question_stops_its_reply_and_leaves_nothing(here: World) -> None:
    guild, ann = await here.member()
    here.engine.hang("First words ")
    asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> tell me")
    await here.discord.until(lambda: here.discord.answers(asked))
    await here.discord.delete(asked)
    await here.discord.until(lambda: not here.discord.answers(asked))
    here.engine.release()
    await here.ask(guild, ann, "And?")
    assert "tell me" not in str(here.engine.requests[-1].messages)
