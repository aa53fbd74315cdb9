"""Personas that speak through a webhook: who is seen to speak, every button, replies to them, and where it fails.

The main ones on SQLite and Postgres. What a crash leaves is in tests/discord/delivery/test_webhooks_delivered.py.
"""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.discord.harness import World, world
from tests.fakes.discord.gateway import MESSAGE_CONTENT
from tests.fakes.discord.server import Attachment, Channel, FakeDiscord, Guild, Message, Permission, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
ADDRESS = re.compile(r"\A-# ↪\ufe0e \[(?P<name>[^\]]+)\]\((?P<link>https://discord\.com/channels/\d+/\d+/\d+)\)\n")


async def allow(here: World, guild: Guild, *, manage: bool = True) -> None:
    """Give the bot Manage Webhooks, or take it away."""
    role = guild.bot_role
    role.permissions = role.permissions | Permission.MANAGE_WEBHOOKS if manage else 0
    await here.discord.announce(role, guild)


async def speaking(here: World, *names: str, manage: bool = True) -> tuple[Guild, User, User]:
    """A guild whose first persona is set and speaks through a webhook. Without names: Jack."""
    guild, boss = await here.member("boss", manager=True)
    await allow(here, guild, manage=manage)
    for name in names or ("Jack",):
        await here.use(guild, boss, "persona set", prompt=f"You are {name}.", name=name)
    if len(names) > 1:
        for name in names:
            await here.use(guild, boss, "scene add", name=name)
    await here.use(guild, boss, "persona face", how="webhook")
    return guild, boss, here.discord.user("ann")


async def spoken(here: World, where: Guild | Channel, number: int = 1) -> list[Message]:
    """Wait for `number` complete messages of personas."""
    await here.discord.until(lambda: len(here.discord.spoken(where)) >= number)
    await here.discord.until(lambda: here.discord.spoken(where) and here.discord.spoken(where)[-1].buttons()
                             and not any(each.runs() for each in here.discord.spoken(where)))  # fmt: skip
    found = here.discord.spoken(where)
    assert len(found) == number, [each.content for each in found]
    return found


def told(message: Message) -> str:
    """What a persona says, without the line that tells whom it answers."""
    assert ADDRESS.match(message.content), message.content
    return ADDRESS.sub("", message.content)


async def test_a_persona_speaks_under_its_own_name(both: World) -> None:
    here = both
    guild, _boss, ann = await speaking(here)
    here.engine.reply("Arr, ", "hello.", pace=0.4)
    asked = await here.mention(guild, ann, "Hello")
    [message] = await spoken(here, guild)
    found = ADDRESS.match(message.content)
    assert found
    assert found["name"] == "Ann"
    assert found["link"].endswith(f"/{guild.id}/{guild.channel.id}/{asked.id}")
    assert told(message) == "Arr, hello."
    assert (message.author.name, message.mentions) == ("Jack", [])
    assert message.author.avatar_url
    assert here.discord.answers(asked) == []
    [webhook] = here.discord.own_webhooks(guild)
    assert message.webhook_id == webhook.id
    # The next one, and another persona: by the same webhook.
    await here.use(guild, ann, "me persona set", prompt="You are a poet.", name="Rhymer")
    here.engine.reply("A rhyme.")
    await here.mention(guild, ann, "And now?")
    second = (await spoken(here, guild, 2))[1]
    assert (second.author.name, told(second)) == ("Rhymer", "A rhyme.")
    assert here.discord.own_webhooks(guild) == [webhook]
    assert [each["content"] for each in here.engine.requests[-1].messages[1:-1]] == ["Hello", "Arr, hello."]
    # A command is answered by the bot itself, with the name in bold.
    here.engine.reply("Private rhyme.")
    assert (await here.ask(guild, ann, "Hm")).reply() == "**Rhymer**\nPrivate rhyme."
    assert "under its own name" in (await here.use(guild, ann, "persona show")).reply()
    assert webhook.token not in here.bot.log()


async def test_all_buttons_work(both: World) -> None:
    here = both
    guild, _boss, ann = await speaking(here)
    here.engine.reply("First", finish_reason="length")
    await here.mention(guild, ann, "Hello")
    [message] = await spoken(here, guild)
    here.engine.reply(" and more.")
    await here.discord.press(message, ann, label="Continue")
    await here.discord.until(lambda: told(message) == "First and more." and not message.runs())
    here.engine.reply("Second.")
    await here.discord.press(message, ann, label="Regenerate")
    await here.discord.until(lambda: told(message) == "Second." and "2/2" in str(message.components))
    await here.discord.press(message, ann, emoji="◀️")
    await here.discord.until(lambda: told(message) == "First and more.")
    opened = await here.discord.press(message, ann, label="Edit")
    await here.discord.done(opened)
    here.engine.reply("Edited.")
    await here.discord.submit(opened, text="Good day")
    await here.discord.until(lambda: told(message) == "Edited." and not message.runs())
    assert here.engine.requests[-1].messages[-1]["content"] == "Good day"
    await here.discord.react(message, ann, "🔁")
    await here.discord.until(lambda: told(message) == "You said: Good day" and not message.runs())
    why = await here.discord.menu(message, ann, "Why this answer?")
    await here.discord.done(why)
    assert "**Jack**, version 1" in why.reply()
    await here.discord.press(message, ann, label="Thread")
    await here.discord.until(lambda: message.thread is not None)
    await asyncio.sleep(2.1)  # discord.py returns from the last request that a limit allows when the limit is over
    pressed = await here.discord.press(message, here.discord.user("eve"), label="Forget")
    await here.discord.until(lambda: pressed.followups)
    assert "Only the person who asked" in pressed.followups[0].content
    assert "Forgotten" not in message.content
    await here.discord.press(message, ann, label="Forget")
    await here.discord.until(lambda: message.content.startswith("-# Forgotten"))
    assert len(here.discord.spoken(guild)) == 1
    assert message.author.name == "Jack"


async def test_stop_and_a_deleted_or_edited_question(here: World) -> None:
    guild, _, ann = await speaking(here)
    here.engine.hang("Once upon ")
    await here.mention(guild, ann, "Tell me a tale")
    await here.discord.until(lambda: here.discord.spoken(guild))
    [message] = here.discord.spoken(guild)
    await here.discord.press(message, ann, label="Stop")
    await here.discord.until(lambda: not message.runs())
    assert told(message).startswith("Once upon")
    here.engine.hang("Two and ")
    asked = await here.mention(guild, ann, "two plus two")
    await here.discord.until(lambda: len(here.discord.spoken(guild)) == 2)
    second = here.discord.spoken(guild)[1]
    await here.discord.edit(asked, f"<@{here.discord.bot.id}> three plus three")
    await here.discord.until(lambda: told(second) == "You said: three plus three" and not second.runs())
    assert len(here.discord.spoken(guild)) == 2
    here.engine.release()
    here.engine.hang("Never ")
    asked = await here.mention(guild, ann, "gone soon")
    await here.discord.until(lambda: len(here.discord.spoken(guild)) == 3)
    await here.discord.delete(asked)
    await here.discord.until(lambda: len(here.discord.spoken(guild)) == 2)
    here.engine.release()


async def test_a_persona_in_a_thread_and_in_several_messages(here: World) -> None:
    guild, _, ann = await speaking(here)
    thread = await here.discord.thread(guild.channel, "Tales", user=ann)
    words = " ".join(f"word{number}" for number in range(600))
    here.engine.reply(words)
    await here.mention(thread, ann, "Tell me all")
    await here.discord.until(lambda: here.discord.spoken(thread) and
                             here.discord.spoken(thread)[-1].content.endswith("word599"))  # fmt: skip
    shown = here.discord.spoken(thread)
    assert len(shown) > 1
    assert {each.author.name for each in shown} == {"Jack"}
    assert " ".join([told(shown[0]), *(each.content for each in shown[1:])]).split() == words.split()
    await here.discord.until(lambda: shown[-1].buttons())
    assert not any(each.buttons() for each in shown[:-1])
    here.engine.reply(" ".join(f"more{number}" for number in range(1600)))
    await here.mention(thread, ann, "Much more")
    await here.discord.until(lambda: any(each.attachments for each in here.discord.spoken(thread)))
    assert here.discord.spoken(guild) == []
    # An archived thread is opened by a button, too.
    short = here.discord.spoken(thread)[len(shown) - 1]
    await here.discord.archive(thread)
    here.engine.reply("Short.")
    await here.discord.react(short, ann, "🔁")
    await here.discord.until(lambda: any("Short." in each.content for each in here.discord.spoken(thread)))


async def test_a_reply_to_a_character_is_answered_by_it(both: World) -> None:
    here = both
    guild, _boss, ann = await speaking(here, "Jack", "Anne")
    here.engine.reply("Arr.")
    await here.mention(guild, ann, "Hello all")
    [jack] = await spoken(here, guild)
    assert jack.author.name == "Jack"
    here.engine.reply("Arr again.")
    await here.mention(guild, ann, "Really?", reply_to=jack)  # it would be Anne's turn
    again = (await spoken(here, guild, 2))[1]
    assert (again.author.name, told(again)) == ("Jack", "Arr again.")
    here.engine.reply("I am here.")
    await here.mention(guild, ann, "And you, Anne?", reply_to=jack)
    assert (await spoken(here, guild, 3))[2].author.name == "Anne"
    heard = here.engine.requests[-1].messages[-1]["content"]
    assert "[speaker: Jack]\nArr." in heard
    assert len(here.discord.own_webhooks(guild)) == 1
    # Another reply is of the same character, in its message.
    here.engine.reply("I am still here.")
    await here.discord.press(here.discord.spoken(guild)[2], ann, label="Regenerate")
    await here.discord.until(lambda: told(here.discord.spoken(guild)[2]) == "I am still here.")


async def test_a_reply_without_a_mention_gets_a_hint_once(here: World) -> None:
    """Discord shows no text of it to a bot without the message content intent."""
    guild, _boss, ann = await speaking(here)
    await here.mention(guild, ann, "Hello")
    [message] = await spoken(here, guild)
    asked = await here.discord.say(guild, ann, "And how are you?", reply_to=message)
    await here.discord.until(lambda: here.discord.answers(asked))
    assert "only if they mention me" in here.discord.answers(asked)[0].content
    again = await here.discord.say(guild, ann, "Hello??", reply_to=message)
    other = await here.discord.say(guild, ann, "Not for you")
    robot = here.discord.user("robot", bot=True)
    loop = await here.discord.say(guild, robot, f"<@{here.discord.bot.id}> hello", reply_to=message)
    await asyncio.sleep(0.6)
    assert [here.discord.answers(each) for each in (again, other, loop)] == [[], [], []]
    assert len(here.discord.spoken(guild)) == 1


async def test_nobody_is_mentioned_and_names_are_cleaned(here: World) -> None:
    guild, boss, ann = await speaking(here, "Discord\u200b @everyone: Clyde's \U0001f920")
    eve = here.discord.user("[x](https://evil.example) @here")
    here.engine.reply(f"<@{ann.id}> @everyone hello")
    await here.mention(guild, eve, "Hello")
    [message] = await spoken(here, guild)
    assert message.author.name == "everyone 's \U0001f920"
    assert (message.mentions, message.mention_everyone) == ([], False)
    line = message.content.split("\n")[0]
    assert "evil" not in line.partition("](")[2]
    assert line.count("](") == 1
    # A name of which nothing is left stands in bold.
    await here.use(guild, boss, "persona set", prompt="You are nobody.", name="discord")
    here.engine.reply("Hm.")
    asked = await here.mention(guild, ann, "Who?")
    [answer] = await here.discord.answered(asked)
    assert answer.content == "**discord**\nHm."


async def test_without_the_permission_names_stand_in_bold(here: World) -> None:
    guild, boss, ann = await speaking(here, manage=False)
    told_at_once = (await here.use(guild, boss, "persona face", how="webhook")).reply()
    assert "I need the permissions Manage Webhooks" in told_at_once
    assert "must mention me" in told_at_once
    before = here.discord.rest.num_invalid
    for words in ("Hello", "And again"):
        here.engine.reply("Arr.")
        [answer] = await here.discord.answered(await here.mention(guild, ann, words))
        assert answer.content == "**Jack**\nArr."
    assert here.discord.rest.num_invalid == before
    assert "Manage Webhooks" in (await here.use(guild, ann, "persona show")).reply()
    assert here.bot.log().count(f'"channel": {guild.channel.id}, "problem": "forbidden"') == 1
    await allow(here, guild)
    await asyncio.sleep(0.1)
    here.engine.reply("Arr, at last.")
    await here.mention(guild, ann, "And now?")
    assert told((await spoken(here, guild))[0]) == "Arr, at last."
    assert "Manage Webhooks" not in (await here.use(guild, ann, "persona show")).reply()


async def test_it_says_nothing_where_the_bot_may_not_write(here: World) -> None:
    """Discord lets a webhook write everywhere, whatever the bot may do."""
    guild, _, ann = await speaking(here)
    await here.mention(guild, ann, "Hello")
    await spoken(here, guild)
    await here.discord.permit(guild.channel, guild.bot, deny=Permission.SEND_MESSAGES)
    await asyncio.sleep(0.1)
    here.engine.reply("Arr.")
    await here.mention(guild, ann, "And now?")
    await here.discord.until(lambda: any("Arr." in each.content for each in here.discord.posts(ann)))
    assert len(here.discord.spoken(guild)) == 1


async def test_webhooks_of_others_are_never_used(here: World) -> None:
    guild, _boss, ann = await speaking(here)
    others = [here.discord.webhook(guild.channel, f"Feed {number}") for number in range(15)]
    here.engine.reply("Arr.")
    [answer] = await here.discord.answered(await here.mention(guild, ann, "Hello"))
    assert answer.content == "**Jack**\nArr."
    assert "as many webhooks as Discord allows" in (await here.use(guild, ann, "persona show")).reply()
    assert not any(each.deleted for each in others)


async def test_deleted_by_an_admin_while_it_speaks(both: World) -> None:
    here = both
    guild, _boss, ann = await speaking(here)
    here.engine.hang("Once upon a time ")
    asked = await here.mention(guild, ann, "Tell me")
    await here.discord.until(lambda: here.discord.spoken(guild))
    [webhook] = here.discord.own_webhooks(guild)
    webhook.deleted = True
    here.engine.release()
    [answer] = await here.discord.answered(asked)
    assert answer.content.startswith("-# In place of my answer above:\n**Jack**\nOnce upon a time")
    assert "deleted" in (await here.use(guild, ann, "persona show")).reply()
    # Its buttons are those of the bot's own message now.
    here.engine.reply("Another tale.")
    await here.discord.press(answer, ann, label="Regenerate")
    await here.discord.until(lambda: answer.content == "**Jack**\nAnother tale." and not answer.runs())
    # The next one is not tried with the dead webhook.
    before = len(here.discord.sent("POST", webhook.token))
    [after] = await here.discord.answered(await here.mention(guild, ann, "And then?"))
    assert after.content == "**Jack**\nYou said: And then?"
    assert len(here.discord.sent("POST", webhook.token)) == before == 1


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("POST", r"/webhooks/\d+/", {"status": 404, "code": 10015}),
        ("POST", r"/webhooks/\d+/", {"status": 401, "code": 50027}),
        ("POST", r"/webhooks/\d+/", {"status": 403, "code": 50013}),
        ("POST", r"/webhooks/\d+/", {"status": 400, "code": 50035}),
        ("POST", r"/channels/\d+/webhooks", {"status": 403, "code": 50013}),
        ("GET", r"/channels/\d+/webhooks", {"status": 500, "times": 5}),
    ],
)
async def test_what_discord_refuses_is_said_by_the_bot_itself(
    here: World, method: str, path: str, fault: dict[str, int]
) -> None:
    guild, _boss, ann = await speaking(here)
    here.discord.fail(method, path, **fault)
    here.engine.reply("Arr.")
    asked = await here.mention(guild, ann, "Hello")
    await here.discord.until(lambda: here.discord.answers(asked), timeout=40)
    [answer] = await here.discord.answered(asked)
    assert answer.content == "**Jack**\nArr."
    assert here.discord.spoken(guild) == []


async def test_requests_to_a_webhook_keep_to_its_limits(here: World) -> None:
    guild, _boss, _ann = await speaking(here)
    before = here.discord.rest.num_rate_limited
    for number in range(4):
        here.engine.reply(*[f"word{each} " for each in range(20)], pace=0.15)
        await here.mention(guild, here.discord.user(f"user{number}"), f"Hello {number}")
    await here.discord.until(lambda: len(here.discord.spoken(guild)) == 4, timeout=30)
    await here.discord.until(lambda: all(each.buttons() and not each.runs() for each in here.discord.spoken(guild)),
                             timeout=30)  # fmt: skip
    assert here.discord.rest.num_rate_limited == before


@pytest.mark.parametrize("fault", [{"lose": "response"}, {"lose": "answer", "status": 502}])
async def test_an_answer_that_got_lost_is_not_sent_twice(here: World, fault: dict[str, Any]) -> None:
    guild, _boss, ann = await speaking(here)
    here.discord.fail("POST", r"/webhooks/\d+/[^/]+$", **fault)
    here.engine.reply("Arr.")
    await here.mention(guild, ann, "Hello")
    await here.discord.until(lambda: here.discord.spoken(guild))
    [message] = await spoken(here, guild)
    assert told(message) == "Arr."


async def test_a_rate_limit_is_waited_for_and_no_token_logged(here: World) -> None:
    guild, _, ann = await speaking(here)
    here.discord.fail("POST", r"/webhooks/\d+/[^/]+$", retry_after=0.3)
    here.engine.reply("Arr.")
    await here.mention(guild, ann, "Hello")
    [message] = await spoken(here, guild)
    assert told(message) == "Arr."
    [webhook] = here.discord.own_webhooks(guild)
    assert f"/webhooks/{webhook.id}/[hidden]?wait=true responded with 429" in here.bot.log()
    assert webhook.token not in here.bot.log()


async def test_a_webhook_that_was_moved_tells_no_other_channel(here: World) -> None:
    guild, _boss, ann = await speaking(here)
    await here.mention(guild, ann, "Hello")
    await spoken(here, guild)
    other = here.discord.channel(guild, "other")
    await here.discord.announce(other)
    here.discord.own_webhooks(guild)[0].channel = other
    here.engine.reply("A secret.")
    [answer] = await here.discord.answered(await here.mention(guild, ann, "Tell me a secret"))
    assert answer.content == "**Jack**\nA secret."
    assert here.discord.spoken(other) == []


async def test_a_webhook_that_was_moved_is_replaced_for_threads(here: World) -> None:
    guild, _boss, ann = await speaking(here)
    thread = await here.discord.thread(guild.channel, "Tales", user=ann)
    await here.mention(thread, ann, "Hello")
    await spoken(here, thread)
    [moved] = here.discord.own_webhooks(guild)
    moved.channel = here.discord.channel(guild, "other")
    here.engine.reply("Arr.")
    [answer] = await here.discord.answered(await here.mention(thread, ann, "Still there?"))
    assert answer.content == "**Jack**\nArr."
    here.engine.reply("Arr, again.")
    await here.mention(thread, ann, "And now?")
    assert told((await spoken(here, thread, 2))[-1]) == "Arr, again."
    [new] = here.discord.own_webhooks(guild)
    assert new is not moved


async def test_a_reset_and_a_deleted_pair_mark_its_messages(both: World) -> None:
    here = both
    guild, _boss, ann = await speaking(here)
    await here.mention(guild, ann, "One")
    [first] = await spoken(here, guild)
    await here.mention(guild, ann, "Two")
    second = (await spoken(here, guild, 2))[1]
    opened = await here.discord.press(first, ann, label="Edit")
    await here.discord.done(opened)
    here.engine.reply("Anew.")
    await here.discord.submit(opened, text="Other")
    await here.discord.until(lambda: told(first) == "Anew." and not first.runs())
    await here.discord.until(lambda: second.content.startswith("-# Forgotten"), timeout=30)
    assert here.discord.answers(first) == []


async def test_the_guilds_persona_has_its_picture(here: World) -> None:
    guild, boss, ann = await speaking(here)
    await here.use(guild, boss, "persona picture", name="Jack", file=drawn("red"))
    await here.use(guild, ann, "me persona set", prompt="You are a poet.", name="Rhymer")
    await here.use(guild, ann, "me persona picture", name="Rhymer", file=drawn("blue"))
    await here.mention(guild, boss, "Hello")
    await spoken(here, guild)
    await here.mention(guild, ann, "Hello")
    jack, rhymer = await spoken(here, guild, 2)
    [webhook] = here.discord.own_webhooks(guild)
    assert webhook.avatar is not None
    assert (jack.author.avatar_url, jack.author.picture) == (None, webhook.avatar)
    assert (rhymer.author.avatar_url or "").startswith("https://cdn.discordapp.com/embed/avatars/")
    # It is changed now and then, like the bot's profile; until then a persona has a plain one.
    await here.use(guild, boss, "persona picture", name="Jack", file=drawn("green"))
    await here.mention(guild, boss, "And now?")
    assert (await spoken(here, guild, 3))[2].author.avatar_url
    changes = [each for each in here.discord.sent("PATCH", f"/webhooks/{webhook.id}") if "/messages/" not in each.path]
    assert len(changes) == 1


def drawn(colour: str) -> Attachment:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(data, "PNG")
    return Attachment("face.png", data.getvalue(), content_type="image/png")


async def test_a_place_in_line_is_the_bots_and_the_answer_the_personas(here: World) -> None:
    guild, _boss, ann = await speaking(here)
    here.engine.hang("Still ")
    await here.mention(guild, ann, "First")
    await here.discord.until(lambda: here.discord.spoken(guild))
    asked = await here.mention(guild, ann, "Second")
    await here.discord.until(lambda: here.discord.answers(asked), timeout=10)
    [waiting] = here.discord.answers(asked)
    assert "in line" in waiting.content
    here.engine.release()
    await here.discord.until(lambda: len(here.discord.spoken(guild)) == 2)
    assert waiting.deleted
    assert told(here.discord.spoken(guild)[1]).startswith("You said: Second")


async def test_with_the_content_intent_replies_need_no_mention(sqlite_url: str, tmp_path: Path) -> None:
    """And the bot, which now reads what its personas say, answers none of them."""

    def allow_content(discord: FakeDiscord) -> None:
        discord.gateway.allowed_intents |= MESSAGE_CONTENT

    async with world(sqlite_url, tmp_path, before=allow_content, MESSAGE_CONTENT="true") as here:
        guild, boss, ann = await speaking(here, "Jack", "Anne")
        assert "must mention me" not in (await here.use(guild, boss, "persona face", how="webhook")).reply()
        await here.use(guild, ann, "thread start", name="Tales")
        thread = next(each for each in here.discord.rest.channels.values() if each.name == "Tales")
        here.engine.reply(f"<@{here.discord.bot.id}> Arr, Anne, what do you say?")
        await here.discord.say(thread, ann, "Hello all")
        [jack] = await spoken(here, thread)
        asked = len(here.engine.requests)
        await asyncio.sleep(0.6)
        assert len(here.engine.requests) == asked
        here.engine.reply("Arr again.")
        await here.discord.say(thread, ann, "Really?", reply_to=jack)
        again = (await spoken(here, thread, 2))[1]
        assert (again.author.name, told(again)) == ("Jack", "Arr again.")
