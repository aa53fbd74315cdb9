"""/admin audit and stats: what was done, in sentences and as a file; a guild's use, in numbers and as a picture."""

from __future__ import annotations

import csv
import io
import re

import pytest
from PIL import Image

from tests.discord.commands.command_kit import refused
from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"


async def audit(here: World, guild: Guild, boss: User, **options: str | User) -> Message:
    [message] = (await here.use(guild, boss, "admin audit", **options)).messages()
    assert message.ephemeral
    return message


def entries(message: Message) -> list[str]:
    return [re.sub(r"<t:\d+:f> ", "", line) for line in message.content.split("\n")[1:]]


async def test_what_admins_did_is_said_in_sentences(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    assert "nothing of this kind" in (await audit(here, guild, boss)).content
    await here.use(guild, boss, "config set", max_chat_logs=3, daily_messages=50)
    await here.use(guild, boss, "config reset", setting="max_chat_logs")
    await here.use(guild, boss, "config channels add", channel=guild.channel)
    await here.use(guild, boss, "persona set", prompt="You are Jack.", name="Captain *Jack*")
    await here.use(guild, boss, "persona lock", channel=guild.channel)
    await here.use(guild, boss, "persona face", how="name")
    await here.use(guild, boss, "scene add", name="Captain *Jack*")
    await here.use(guild, boss, "admin block", member=ann, reason="A secret reason", duration="7d")
    await here.use(guild, boss, "admin unblock", member=ann)
    message = await audit(here, guild, boss)
    by = f"<@{boss.id}>"
    assert entries(message) == [
        f"{by} ended the block of <@{ann.id}>.",
        f"{by} blocked <@{ann.id}>: 7 days.",
        f"{by} added **Captain \\*Jack\\*** to the scene in <#{guild.channel.id}>.",
        f"{by} changed settings: `/persona face` name.",
        f"{by} changed settings: `/persona lock`.",
        f"{by} set the persona **Captain \\*Jack\\*** for the whole guild.",
        f"{by} changed settings: `channels`.",
        f"{by} changed settings: `max_chat_logs` the default.",
        f"{by} changed settings: `daily_messages` 50, `max_chat_logs` 3.",
    ]
    assert "secret" not in message.content
    assert [each["label"] for each in message.buttons()] == ["As a file"]
    only = await audit(here, guild, boss, action="member")
    assert len(entries(only)) == 2
    assert len(entries(await audit(here, guild, boss, member=ann))) == 2
    assert len(entries(await audit(here, guild, boss, member=boss, action="scene"))) == 1

    pressed = await here.discord.press(message, boss, "As a file")
    await here.discord.done(pressed)
    [file] = [each for sent in pressed.messages() for each in sent.attachments]
    table = list(csv.DictReader(io.StringIO(file.content.decode("utf-8-sig"))))
    assert [row["action"] for row in table][-2:] == ["member.block", "member.unblock"]
    assert table[-2]["sentence"] == f"@{boss.id} blocked @{ann.id}: 7 days."
    assert len(table) == 9


async def test_pages_go_older_and_newer_with_the_filter(both: World) -> None:
    here = both
    guild, boss, _ann = await here.admin_and_member()
    for number in range(12):
        await here.use(guild, boss, "config set", max_reply_tokens=100 + number)
        if number % 4 == 0:
            await here.use(guild, boss, "persona set", prompt=f"You are {number}.", name="Jack")
    message = await audit(here, guild, boss, action="config")
    first = entries(message)
    assert len(first) == 10
    await here.discord.press(message, boss, "Older")
    await here.discord.until(lambda: len(entries(message)) == 2)
    older = entries(message)
    assert "persona" not in message.content
    assert [each.rpartition(" ")[2] for each in older] == ["101.", "100."]
    await here.discord.press(message, boss, "Newer")
    await here.discord.until(lambda: len(entries(message)) == 10)
    assert entries(message) == first


async def test_the_log_is_for_admins_of_that_guild_alone(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    elsewhere, eve = await here.member("eve", manager=True)
    await here.use(guild, boss, "config set", max_chat_logs=3)
    for command in ("admin audit", "admin stats"):
        assert refused(await here.use(guild, ann, command), "Manage Server")
    [theirs] = (await here.use(elsewhere, eve, "admin audit")).messages()
    [anns] = (await here.use(guild, ann, "privacy show")).messages()
    for custom_id in ("admin:audit:before:999999:all:0", "admin:audit-file:all:0"):
        pressed = await here.discord.force_component(anns, ann, custom_id)
        await here.discord.done(pressed)
        assert refused(pressed, "Manage Server")
    pressed = await here.discord.force_component(theirs, eve, "admin:audit:after:0:all:0")
    await here.discord.done(pressed)
    assert str(boss.id) not in theirs.content
    pressed = await here.discord.force_component(theirs, eve, "admin:audit-file:all:0")
    await here.discord.done(pressed)
    files = [each.content.decode() for sent in pressed.messages() for each in sent.attachments]
    assert len(files) == 1
    assert str(boss.id) not in files[0]
    for custom_id in ("admin:audit:before:1:everything:0", "admin:audit:before:1", "admin:audit-file:x:0"):
        pressed = await here.discord.force_component(theirs, eve, custom_id)
        await here.discord.done(pressed)
        assert "use the command again" in " ".join(pressed.texts()), custom_id


async def test_stats_are_numbers_and_a_picture(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.use(guild, boss, "persona set", prompt="You are Jack.", name="Jack")
    for user, count in ((ann, 3), (here.discord.user("bob"), 2)):
        for number in range(count):
            here.engine.reply(*["word "] * 8)
            await here.ask(guild, user, f"Question {number}")
    await here.use(guild, boss, "persona clear")
    await here.ask(guild, ann, "And now?")
    other, eve = await here.member("eve")
    await here.ask(other, eve, "Elsewhere")
    used = await here.use(guild, boss, "admin stats", days=7)
    [message] = used.messages()
    assert message.ephemeral
    assert "### The last 7 days" in message.content
    assert "- 6 messages, 0.9 a day" in message.content
    assert "- 2 active members" in message.content
    assert re.search(r"First token after \d+\.\d\d s for half of the answers", message.content)
    assert "- Jack: 5 answers" in message.content
    assert "- without a persona: 1 answer" in message.content
    [picture] = message.attachments
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.format == "PNG"
        assert image.size[0] >= 800
    assert "Most messages, 6," in str(picture.json().get("description"))
    assert "### Today" in (await here.use(guild, boss, "admin stats", days=1)).reply()


async def test_stats_of_a_guild_without_any_use(both: World) -> None:
    guild, boss, _ann = await both.admin_and_member()
    used = await both.use(guild, boss, "admin stats")
    assert "- 0 messages, 0.0 a day" in used.reply()
    assert len(used.messages()[0].attachments) == 1
