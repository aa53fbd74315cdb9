"""/report and "Report this answer", and /admin reports: a copy for the admins, and whose words it may keep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models.maintenance.cleanup import clean
from models.queries.deletion.retention import RetentionLimits
from tests.discord.commands.command_kit import refused
from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Interaction, Message, User
from tests.fakes.discord.state import Permission

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"

MENU = "Report this answer"


async def report(here: World, message: Message, user: User, reason: str) -> str:
    """Report an answer by its menu; what the member reads."""
    opened = await here.discord.menu(message, user, MENU)
    await here.discord.done(opened)
    assert opened.modal, opened.texts()
    sent = await here.discord.submit(opened, reason=reason)
    await here.discord.done(sent)
    [told] = sent.messages()
    assert told.ephemeral
    return told.content


async def listed(here: World, guild: Guild, boss: User) -> Message:
    [message] = (await here.use(guild, boss, "admin reports")).messages()
    assert message.ephemeral
    return message


async def details(here: World, guild: Guild, boss: User) -> Message:
    """The newest report, in full."""
    message = await listed(here, guild, boss)
    number = next(each for each in message.all_components() if each["type"] == 3)["options"][0]["value"]
    await here.discord.select(message, boss, number)
    await here.discord.until(lambda: "The answer" in message.content)
    return message


async def said(here: World, used: Interaction, text: str) -> None:
    """Wait until a pressed button is answered so."""
    await here.discord.until(lambda: text in " ".join(used.texts()))


async def test_a_member_reports_an_answer_and_an_admin_reads_it_in_full(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    room = here.discord.channel(guild, "mods")
    await here.discord.announce(room)
    chosen = await here.use(guild, boss, "admin reports", channel=room)
    assert f"<#{room.id}> is told of new reports, without their words." in chosen.reply()
    await here.use(guild, boss, "persona set", prompt="You are a secret pirate.", name="Jack")
    await here.ask(guild, ann, "First")
    here.engine.reply("An *awful* answer")
    asked = await here.ask(guild, ann, "Second")
    bob = here.discord.user("bob")
    opened = await here.discord.menu(asked.messages()[0], bob, MENU)
    await here.discord.done(opened)
    assert "for 30 days" in str(opened.modal)
    sent = await here.discord.submit(opened, reason="It is rude @everyone")
    await here.discord.done(sent)
    assert "Thank you" in sent.reply()

    def told() -> list[str]:
        return [each.content for each in here.discord.rest.messages.values() if each.channel is room]

    await here.discord.until(told)
    assert told() == ["A member has reported an answer of mine. Admins read it with `/admin reports`."]
    assert "already" in await report(here, asked.messages()[0], bob, "Once more")

    message = await listed(here, guild, boss)
    assert "1 report, 1 open" in message.content
    assert f"<@{ann.id}>" in message.content
    assert f"reported by <@{bob.id}>" in message.content
    message = await details(here, guild, boss)
    assert "> Second" in message.content
    assert "> An \\*awful\\* answer" in message.content
    assert "exactly as it was sent" in message.content
    pressed = await here.discord.press(message, boss, "As a file")
    await here.discord.done(pressed)
    [file] = [each for sent in pressed.messages() for each in sent.attachments]
    text = file.content.decode()
    for part in ("You are a secret pirate.", "First", "Second", "An *awful* answer", "It is rude"):
        assert part in text
    await here.discord.press(message, boss, "Close")
    await here.discord.until(lambda: f"closed by <@{boss.id}>" in message.content)
    await here.discord.press(message, boss, "Delete")
    await here.discord.until(lambda: any(each["label"] == "Yes, delete it" for each in message.buttons()))
    await here.discord.press(message, boss, "Yes, delete it")
    await here.discord.until(lambda: "Nothing is reported" in message.content)
    await here.discord.press(message, boss, "Tell no channel")
    await here.discord.until(lambda: "No channel is told" in message.content)


async def test_a_report_outlives_the_conversation_but_not_the_askers_own_deletion(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    bob = here.discord.user("bob")
    await here.use(guild, boss, "config set", scope="channel")
    await here.ask(guild, bob, "Bob was here first")
    asked = await here.ask(guild, ann, "Ann's words")
    assert "Thank you" in await report(here, asked.messages()[0], bob, "Look at this")
    await here.use(guild, ann, "history forget")
    message = await details(here, guild, boss)
    assert "Ann's words" in message.content.replace("\\", "")
    assert "The prompt is not here" not in message.content
    [confirm] = (await here.use(guild, bob, "privacy delete")).messages()  # whose words were in the prompt
    await here.discord.press(confirm, bob, "Delete everything")
    await here.discord.until(lambda: "Receipt" in confirm.content)
    message = await details(here, guild, boss)
    assert "Ann's words" in message.content.replace("\\", "")
    assert "The prompt is not here" in message.content
    assert "Look at this" not in message.content
    [confirm] = (await here.use(guild, ann, "privacy delete")).messages()
    await here.discord.press(confirm, ann, "Delete everything")
    await here.discord.until(lambda: "Receipt" in confirm.content)
    assert "Nothing is reported" in (await listed(here, guild, boss)).content


async def test_a_report_by_others_shows_no_notes_and_nothing_that_was_asked_in_private(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    await here.use(guild, boss, "config memory on")
    await here.use(guild, ann, "memory on")
    await here.use(guild, ann, "memory add", note="I am allergic to peanuts")
    for words, private in (("My private worry", True), ("In the open before", False), ("What may I eat?", False)):
        here.engine.reply("Fine.")  # without what it was told
        asked = await here.ask(guild, ann, words, private=private)
    assert "peanuts" in str(here.engine.requests[-1].messages)

    async def copy_by(user: User) -> str:
        await report(here, asked.messages()[0], user, "Look")
        message = await details(here, guild, boss)
        pressed = await here.discord.press(message, boss, "As a file")
        await here.discord.done(pressed)
        [file] = [each for sent in pressed.messages() for each in sent.attachments]
        return file.content.decode()

    by_bob = await copy_by(here.discord.user("bob"))
    assert "In the open before" in by_bob
    assert "peanuts" not in by_bob
    assert "private worry" not in by_bob
    by_ann = await copy_by(ann)
    assert "peanuts" in by_ann
    assert "private worry" in by_ann


async def test_reports_are_limited_and_deleted_after_their_retention(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    asked = [await here.ask(guild, ann, f"Number {number}") for number in range(6)]
    outcomes = [await report(here, each.messages()[0], ann, "Bad") for each in asked]
    assert [("Thank you" in each) for each in outcomes] == [True] * 5 + [False]
    assert "within a day" in outcomes[-1]
    message = await listed(here, guild, boss)
    assert "5 reports, 5 open" in message.content
    month = timedelta(days=30)
    async with here.database() as database:
        for days, left in ((29, "5 reports"), (31, "Nothing is reported")):
            now = datetime.now(UTC) + timedelta(days=days)
            await clean(database, limits=RetentionLimits(timedelta(days=400), timedelta(days=400), month), now=now)
            assert left in (await listed(here, guild, boss)).content


async def test_report_takes_the_last_answer_also_a_private_one_that_others_cannot_report(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    assert refused(await here.use(guild, ann, "report"), "I have not answered you here yet")
    await here.ask(guild, ann, "A secret", private=True)
    opened = await here.use(guild, ann, "report")
    assert opened.modal
    bob = here.discord.user("bob")
    forged = await here.discord.force_submit(guild.channel, bob, opened, reason="Let me see")
    await here.discord.done(forged)
    assert refused(forged, "belongs to another place")
    sent = await here.discord.submit(opened, reason="Wrong")
    await here.discord.done(sent)
    assert "Thank you" in sent.reply()
    # Elsewhere: another channel of this guild, another guild, direct messages.
    asked = await here.ask(guild, ann, "In the open")
    opened = await here.discord.menu(asked.messages()[0], bob, MENU)
    await here.discord.done(opened)
    room = here.discord.channel(guild, "hidden")
    other = here.discord.guild("another guild")
    await here.discord.join(other)
    for place in (room, other.channel):
        forged = await here.discord.force_submit(place, bob, opened, reason="x")
        await here.discord.done(forged)
        assert refused(forged, "belongs to another place")
    in_dm = await here.discord.force_submit(here.discord.dm(bob), bob, opened, reason="x")
    await here.discord.done(in_dm)
    assert refused(in_dm, "not in direct messages")
    assert "1 report," in (await listed(here, guild, boss)).content


async def test_who_opted_out_is_asked_to_tell_the_admins_themselves(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    asked = await here.ask(guild, ann, "One")
    bob = here.discord.user("bob")
    await here.use(guild, bob, "privacy optout")
    assert "You have opted out" in await report(here, asked.messages()[0], bob, "Bad")
    unstored = await here.ask(guild, bob, "Nothing is stored of this")
    opened = await here.discord.menu(unstored.messages()[0], ann, MENU)
    await here.discord.done(opened)
    assert refused(opened, "I have not stored this answer")
    assert "Nothing is reported" in (await listed(here, guild, boss)).content


async def test_reports_are_for_admins_of_that_guild_alone(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    elsewhere, eve = await here.member("eve", manager=True)
    asked = await here.ask(guild, ann, "One")
    await report(here, asked.messages()[0], ann, "Bad")
    assert refused(await here.use(guild, ann, "admin reports"), "Manage Server")
    message = await details(here, guild, boss)
    number = next(each["custom_id"] for each in message.buttons() if each["label"] == "As a file").rpartition(":")[2]
    [theirs] = (await here.use(elsewhere, eve, "admin reports")).messages()
    [anns] = (await here.use(guild, ann, "privacy show")).messages()
    for custom_id in (
        f"admin:report-file:{number}",
        f"admin:report-close:{number}:1",
        f"admin:report-delete:{number}:1",
    ):
        pressed = await here.discord.force_component(theirs, eve, custom_id)
        await here.discord.done(pressed)
        await said(here, pressed, "This report is gone")
        pressed = await here.discord.force_component(anns, ann, custom_id)
        await here.discord.done(pressed)
        assert refused(pressed, "Manage Server")
    pressed = await here.discord.force_component(theirs, eve, "admin:reported", kind=3, values=[number])
    await here.discord.done(pressed)
    await said(here, pressed, "This report is gone")
    assert "1 report, 1 open" in (await listed(here, guild, boss)).content


async def test_the_list_is_paged_and_a_channel_without_permission_is_refused(both: World) -> None:
    here = both
    guild, boss, ann = await here.admin_and_member()
    for user in (ann, here.discord.user("bob")):
        for number in range(4):
            asked = await here.ask(guild, user, f"Number {number} of {user.name}")
            await report(here, asked.messages()[0], user, f"reason {number} of {user.name}")
    message = await listed(here, guild, boss)
    assert message.content.count("reported by") == 5
    assert "reason 3 of bob" in message.content
    await here.discord.press(message, boss, "Older")
    await here.discord.until(lambda: message.content.count("reported by") == 3)
    assert "reason 0 of ann" in message.content
    await here.discord.press(message, boss, "Newer")
    await here.discord.until(lambda: message.content.count("reported by") == 5)
    room = here.discord.channel(guild, "closed")
    await here.discord.permit(room, None, deny=Permission.SEND_MESSAGES)
    await here.discord.permit(room, guild.bot_role, deny=Permission.SEND_MESSAGES)
    await here.discord.announce(room)
    assert "I may not write in" in (await here.use(guild, boss, "admin reports", channel=room)).reply()
