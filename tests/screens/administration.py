"""What the admins of a guild see, and what a member sees whom they have blocked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from models.tables import DailyUsage
from tests.discord.harness import World
from tests.fakes.discord.server import Message
from tests.screens.pictures import form_picture, picture


async def admin(here: World) -> None:
    """A member who is blocked, the guild's use, the audit log, a deletion, a report."""
    guild, boss = await here.member("boss", manager=True)
    names = ("ann", "bob", "eve", "kim")
    people = {name: here.discord.user(name) for name in names}
    await here.use(guild, boss, "persona set", prompt="You are Jack, an old pirate.", name="Captain Jack")
    asked = None
    for number in range(9):
        here.engine.reply(*["Arr, "] * 20, pace=0.005)
        asked = await here.ask(guild, people[names[number % 4]], f"Where does the treasure of island {number} lie?")
    await here.use(guild, boss, "config limits set", daily_messages=50, daily_tokens=20_000)
    await busy_days(here, guild.id, [each.id for each in people.values()])
    rooms = [here.discord.channel(guild, name) for name in ("numbers", "members", "deletions", "log")]
    for each in rooms:
        await here.discord.announce(each)
    numbers, members, deletions, log = rooms
    await here.use(numbers, boss, "admin stats", days=30)
    await picture(numbers, boss, "admin-stats")
    [of_kim] = (await here.use(members, boss, "admin user", member=people["kim"])).messages()
    [seen] = (await here.use(members, boss, "admin user", member=people["eve"])).messages()
    opened = await here.discord.press(seen, boss, "Block")
    await here.discord.done(opened)
    await form_picture(opened, "admin-block")
    await here.discord.submit(opened, reason="Please do not paste whole songs.", lasts=["7d"])
    await here.discord.until(lambda: "is blocked until" in seen.content)
    await here.ask(members, people["eve"], "La la la?")
    await picture(members, boss, "admin-user")
    await picture(members, people["eve"], "blocked")
    opened = await here.discord.press(of_kim, boss, "Delete data")
    await here.discord.done(opened)
    await form_picture(opened, "admin-delete-form")
    await here.discord.submit(opened, typed=guild.name)
    await here.discord.until(lambda: "Receipt" in of_kim.content)
    await picture(members, boss, "admin-user-deleted")
    await here.use(guild, boss, "config set", max_chat_logs=6, idle_time="36h")
    await here.use(guild, boss, "scene add", name="Captain Jack")
    await here.use(guild, boss, "persona lock", channel=guild.channel)
    await here.use(guild, boss, "admin unblock", member=people["eve"])
    assert asked is not None
    opened = await here.discord.menu(asked.messages()[0], people["bob"], "Report this answer")
    await here.discord.done(opened)
    await form_picture(opened, "report-form")
    await here.discord.done(await here.discord.submit(opened, reason="It says Arr far too often."))
    await here.use(deletions, boss, "admin purge", what="everything", member=people["eve"])
    [question] = (await here.use(deletions, boss, "admin purge", what="conversations")).messages()
    await picture(deletions, boss, "admin-purge")
    opened = await here.discord.press(question, boss, "Delete")
    await here.discord.done(opened)
    await form_picture(opened, "admin-purge-form")
    await here.discord.submit(opened, typed=guild.name)
    await here.discord.until(lambda: "### Deleted" in question.content)
    await here.use(deletions, boss, "admin purge", what="memory")
    await picture(deletions, boss, "admin-purge-done")
    await here.discord.press(question, boss, "Undo")
    await here.discord.until(lambda: "back" in question.content)
    await picture(deletions, boss, "admin-purge-undone")
    await here.use(log, boss, "admin audit")
    [listed] = (await here.use(log, boss, "admin reports")).messages()
    await picture(log, boss, "admin-audit")
    await here.discord.select(listed, boss, newest(listed))
    await here.discord.until(lambda: "The answer" in listed.content)
    await picture(log, boss, "admin-report")


async def reports(here: World) -> None:
    """What a member reads who reports an answer, what its admins are told, and a list with a closed report."""
    guild, boss = await here.member("boss", manager=True)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    rooms = [here.discord.channel(guild, name) for name in ("mods", "reports")]
    for each in rooms:
        await here.discord.announce(each)
    mods, log = rooms
    await here.use(log, boss, "admin reports", channel=mods)
    here.engine.reply("At the bottom of the sea, where such questions end.")
    [answer] = (await here.ask(guild, ann, "Where does the treasure lie?")).messages()
    for reason in ("It is rude.", "It is still rude."):
        opened = await here.discord.menu(answer, bob, "Report this answer")
        await here.discord.done(opened)
        await here.discord.done(await here.discord.submit(opened, reason=reason))
    await picture(guild.channel, bob, "report")
    opened = await here.use(guild, ann, "report")
    await here.discord.done(await here.discord.submit(opened, reason="I only wanted to know."))
    await picture(mods, boss, "report-notice")
    [listed] = (await here.use(log, boss, "admin reports")).messages()
    await here.discord.select(listed, boss, newest(listed))
    await here.discord.until(lambda: "The answer" in listed.content)
    await here.discord.press(listed, boss, "Close")
    await here.discord.until(lambda: "closed by" in listed.content)
    await here.discord.press(listed, boss, "Delete")
    await here.discord.until(lambda: "Yes, delete it" in str(listed.components))
    await here.use(log, boss, "admin reports")
    await picture(log, boss, "admin-reports")


def newest(listed: Message) -> str:
    """The newest report of the menu under a list."""
    return str(next(each for each in listed.all_components() if each["type"] == 3)["options"][0]["value"])


async def busy_days(here: World, guild_id: int, user_ids: list[int]) -> None:
    """A month of use before today, with quiet weekends."""
    today = datetime.now(UTC).date()
    async with here.database() as database, database.write() as session:
        for back in range(1, 29):
            day = today - timedelta(days=back)
            for position, user_id in enumerate(user_ids):
                turns = (17 * back + 7 * position) % 23 // (3 if day.weekday() > 4 else 1)
                if turns:
                    session.add(
                        DailyUsage(
                            guild_id=guild_id,
                            user_id=user_id,
                            day=day,
                            turns=turns,
                            prompt_tokens=turns * 180,
                            completion_tokens=turns * 60,
                        )
                    )
