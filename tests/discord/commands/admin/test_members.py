"""/admin user, block and unblock: what an admin sees and does, and what a blocked member may still do."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from models.tables import MemberBlock
from tests.discord.commands.command_kit import refused
from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

BLOCKED = "An admin of this guild has blocked you from chatting with me"


async def panel(here: World, guild: Guild, boss: User, member: User) -> Message:
    [message] = (await here.use(guild, boss, "admin user", member=member)).messages()
    assert message.ephemeral
    return message


async def test_an_admin_sees_the_use_of_a_member_and_blocks_them_with_a_reason(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.ask(guild, ann, "One")
    await here.ask(guild, ann, "Two")
    message = await panel(here, guild, boss, ann)
    assert f"<@{ann.id}> in this guild" in message.content
    assert "Today: 2 messages, " in message.content
    assert "In the last 30 days: 2 messages, " in message.content
    assert "Not blocked" in message.content
    opened = await here.discord.press(message, boss, "Block")
    await here.discord.done(opened)
    assert "The member reads it" in str(opened.modal)
    sent = await here.discord.submit(opened, reason="Please stop *spamming*.", lasts=["7d"])
    await here.discord.done(sent)
    await here.discord.until(lambda: "is blocked until <t:" in message.content)
    assert "Reason: Please stop \\*spamming\\*." in message.content
    assert f"by <@{boss.id}>" in message.content
    assert [each["label"] for each in message.buttons()] == ["Change the block …", "Unblock", "Delete data …"]

    said = await here.ask(guild, ann, "Hello?")
    assert refused(said, f"{BLOCKED} until <t:")
    assert "Please stop" in said.reply()
    assert "(error" not in said.reply()
    for command, options in (
        ("regenerate", {}), ("reset", {}), ("history show", {}), ("persona show", {}), ("memory show", {}),
        ("me persona list", {}), ("thread start", {}), ("report", {}),
    ):  # fmt: skip
        assert refused(await here.use(guild, ann, command, **options), BLOCKED), command
    assert refused(await here.use(guild, ann, "privacy show"), "stored about you")
    assert refused(await here.use(guild, ann, "help"), "/chat")
    # Only here, and only this member.
    assert (await here.ask(ann, ann, "At home")).reply() == "You said: At home"
    assert (await here.ask(guild, here.discord.user("bob"), "Hi")).reply() == "You said: Hi"

    await here.discord.press(message, boss, "Unblock")
    await here.discord.until(lambda: "is not blocked any more" in message.content)
    assert (await here.ask(guild, ann, "Back")).reply() == "You said: Back"


async def test_buttons_reactions_and_mentions_of_a_blocked_member_are_refused(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    asked = await here.ask(guild, ann, "One")
    [reply] = asked.messages()
    await here.use(guild, boss, "admin block", member=ann, reason="Enough", duration="forever")
    num_requests = len(here.engine.requests)
    pressed = await here.discord.press(reply, ann, "Regenerate")
    await here.discord.done(pressed)
    assert refused(pressed, BLOCKED)
    await here.discord.react(reply, ann, "❌")
    first = await here.mention(guild, ann, "hello")
    await here.discord.until(lambda: here.discord.answers(first))
    [told] = here.discord.answers(first)
    assert BLOCKED in told.content
    assert "Enough" not in told.content  # others read this one
    assert "to read the reason" in told.content
    second = await here.mention(guild, ann, "hello?")
    other = await here.mention(guild, here.discord.user("bob"), "and I?")
    await here.discord.answered(other)
    assert here.discord.answers(second) == []  # one an hour
    assert len(here.engine.requests) == num_requests + 1
    assert not reply.deleted
    assert "One" in reply.content


async def test_a_block_stops_what_is_written_and_what_waits(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    here.engine.hang("So far", " so good")
    running = await here.discord.chat(guild, ann, "One")
    await here.discord.until(lambda: "so good" in running.reply())
    waiting = await here.discord.chat(guild, ann, "Two")
    await here.discord.until(lambda: waiting.messages())
    num_requests = len(here.engine.requests)
    done = await here.use(guild, boss, "admin block", member=ann)
    assert "What I was writing for them is stopped." in done.reply()
    await here.discord.done(running)
    await here.discord.done(waiting)
    here.engine.release()
    assert running.reply() == "So far so good"
    assert "You said" not in waiting.reply()
    assert len(here.engine.requests) == num_requests


async def test_an_admin_sees_the_limits_of_a_member_as_the_member_does(both: World) -> None:
    here = both
    boss, ann = here.discord.user("boss"), here.discord.user("ann")
    guild = here.discord.guild("boss's guild", managers=(boss,))
    friends = here.discord.role(guild, "friends", ann)
    await here.discord.join(guild)
    await here.use(guild, boss, "config limits set", minute_messages=3, daily_messages=5, daily_tokens=90_000)
    await here.use(guild, boss, "config limits role", role=friends, daily_messages=40)
    asked = await here.ask(guild, ann, "One")
    here.engine.reply("Once more.")
    await here.discord.press(asked.messages()[0], ann, "Regenerate")
    await here.discord.until(lambda: "Once more" in asked.messages()[0].content and not asked.messages()[0].runs())
    message = await panel(here, guild, boss, ann)
    assert "Today: 2 messages, " in message.content  # another reply counts as one
    of_admin = message.content.partition("**Left of their limits**\n")[2].split("\n")
    quota = (await here.use(guild, ann, "quota")).reply().split("\n")[1:]
    assert of_admin[1:] == quota[1:]
    assert of_admin[0].startswith("- this minute: 1 of 3 messages, all again <t:")
    assert any(line.startswith("- today: 38 of 40 messages, all again <t:") for line in of_admin)
    stats = (await here.use(guild, boss, "admin stats", days=1)).reply()
    assert "- 2 messages, 2.0 a day" in stats
    blocked = await here.use(guild, boss, "admin block", member=ann)
    assert "Left of their limits" not in blocked.reply()  # they may ask for nothing


async def test_a_block_stops_all_that_the_queue_shows(both: World) -> None:
    """Also messages of shared conversations, and those that wait because too many replies are written at once."""
    here = both
    guild, boss, ann = await here.admin_and_member()
    rooms = [guild.channel, here.discord.channel(guild, "two"), here.discord.channel(guild, "three")]
    for room in rooms[1:]:
        await here.discord.announce(room)
    await here.use(guild, boss, "config set", scope="channel")
    await here.use(guild, boss, "config limits set", running_replies=1)
    here.engine.hang("So far", " so good")
    running = await here.discord.chat(rooms[0], ann, "One")
    await here.discord.until(lambda: "so good" in running.reply())
    waiting = [await here.discord.chat(room, ann, "More") for room in rooms]
    bobs = await here.discord.chat(rooms[0], here.discord.user("bob"), "And I?")
    for each in (*waiting, bobs):
        await here.discord.until(lambda each=each: each.messages())
    shown = (await here.use(guild, ann, "queue")).reply()
    assert "3 of your messages wait here:" in shown
    assert "4 messages wait in all." in shown
    num_requests = len(here.engine.requests)
    await here.use(guild, boss, "admin block", member=ann, duration="forever")
    for each in (running, *waiting):
        await here.discord.done(each)
    shown = (await here.use(guild, boss, "queue")).reply()
    assert "messages wait in all" not in shown  # at most Bob's does
    here.engine.release()
    await here.discord.done(bobs)
    assert "And I?" in bobs.reply()
    assert len(here.engine.requests) == num_requests + 1  # Bob's
    assert [each.reply() for each in waiting if "You said" in each.reply()] == []


async def test_a_block_ends_by_itself_and_survives_a_restart(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.use(guild, boss, "admin block", member=ann, duration="1h")
    await here.bot.stop()
    await here.start_bot()
    assert refused(await here.use(guild, ann, "persona show"), BLOCKED)
    async with here.database() as database, database.write() as session:
        row = await session.get(MemberBlock, (guild.id, ann.id, database.application_id))
        assert row is not None
        await session.execute(update(MemberBlock).where(MemberBlock.guild_id == guild.id).values(until=row.blocked_at))
    await here.bot.stop()
    await here.start_bot()
    assert (await here.ask(guild, ann, "Again")).reply() == "You said: Again"


async def test_privacy_delete_does_not_end_a_block(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.ask(guild, ann, "One")
    await here.use(guild, boss, "admin block", member=ann, reason="Spam")
    [message] = (await here.use(guild, ann, "privacy delete")).messages()
    await here.discord.press(message, ann, "Delete everything")
    await here.discord.until(lambda: "Receipt" in message.content)
    assert refused(await here.ask(guild, ann, "And now?"), BLOCKED)
    assert "Stored here: 0 records" in (await panel(here, guild, boss, ann)).content


async def test_data_of_a_member_is_deleted_after_typing_the_number_or_the_name(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    other = here.discord.guild("another guild")
    await here.discord.join(other)
    await here.ask(guild, ann, "One")
    await here.ask(other, ann, "Elsewhere")
    message = await panel(here, guild, boss, ann)
    for typed, done in (("yes", False), ("", False), (guild.name.upper(), True)):
        opened = await here.discord.press(message, boss, "Delete data")
        await here.discord.done(opened)
        sent = await here.discord.submit(opened, typed=typed)
        await here.discord.done(sent)
        assert ("Nothing was deleted" in " ".join(sent.texts())) is not done
    await here.discord.until(lambda: "Receipt" in message.content)
    assert "Stored here: 0 records" in message.content
    assert [each["label"] for each in message.buttons()] == ["Block …"]
    assert "One" not in (await here.use(guild, ann, "history show")).reply()
    assert "Elsewhere" in (await here.use(other, ann, "history show")).reply()


async def test_admins_are_not_blocked_nor_block_themselves(both: World) -> None:
    here = both
    guild, boss, _ann = await here.admin_and_member()
    other = here.discord.user("other boss")
    guild.managers.add(other.id)
    assert refused(await here.use(guild, boss, "admin block", member=other), "cannot be blocked")
    assert refused(await here.use(guild, boss, "admin block", member=boss), "You cannot block yourself.")
    assert [each["label"] for each in (await panel(here, guild, boss, other)).buttons()] == []


@pytest.mark.parametrize("command", ["admin user", "admin block", "admin unblock"])
async def test_admin_is_refused_to_members_even_from_a_modified_client(both: World, command: str) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    assert refused(await here.use(guild, ann, command, member=boss), "Manage Server")
    registered = here.discord.registered("admin")
    in_dm = await here.discord.force_command(here.discord.dm(ann), None, ann, registered["id"], command, member=ann)
    await here.discord.done(in_dm)
    assert refused(in_dm, "not in direct messages")


async def test_forged_buttons_and_forms_reach_nothing(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    elsewhere, eve = await here.member("eve", manager=True)
    await here.ask(guild, ann, "One")
    message = await panel(here, guild, boss, ann)
    opened = await here.discord.press(message, boss, "Block")
    await here.discord.done(opened)
    # A member, with an admin's button and an admin's form.
    [own] = (await here.use(guild, ann, "help")).messages()[:1]
    for custom_id in (f"admin:block:{boss.id}", f"admin:unblock:{ann.id}", f"admin:delete:{ann.id}:9"):
        pressed = await here.discord.force_component(own, ann, custom_id)
        await here.discord.done(pressed)
        assert refused(pressed, "Manage Server"), custom_id
    sent = await here.discord.force_submit(guild.channel, ann, opened, reason="x")
    await here.discord.done(sent)
    assert refused(sent, "Manage Server")
    # The admin of another guild: what they do concerns their own.
    sent = await here.discord.force_submit(elsewhere.channel, eve, opened, reason="x")
    await here.discord.done(sent)
    [mine] = (await here.use(elsewhere, eve, "admin user", member=ann)).messages()
    forged = await here.discord.force_component(mine, eve, f"admin:delete:{ann.id}:0")
    await here.discord.done(forged)
    await here.discord.done(await here.discord.submit(forged, typed="0"))
    assert (await here.ask(guild, ann, "Two")).reply() == "You said: Two"
    assert "One" in (await here.use(guild, ann, "history show")).reply()
    for custom_id in ("admin", "admin:", "admin:nothing:1", "admin:block:x", "admin:delete:1", "admin:unblock:-1"):
        pressed = await here.discord.force_component(message, boss, custom_id)
        await here.discord.done(pressed)
        assert "use the command again" in " ".join(pressed.texts()), custom_id
