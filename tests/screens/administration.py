"""What the admins of a guild see, and what a member sees whom they have blocked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from models.tables import DailyUsage
from tests.discord.harness import World
from tests.fakes.discord import render
from tests.fakes.discord.server import Channel, User

FOLDER = Path(__file__).parents[2] / "docs" / "screens"


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
    await here.use(members, boss, "admin user", member=people["kim"])
    [seen] = (await here.use(members, boss, "admin user", member=people["eve"])).messages()
    opened = await here.discord.press(seen, boss, "Block")
    await here.discord.done(opened)
    await render.screenshot(render.modal_html(opened), FOLDER / "admin-block.png")
    await here.discord.submit(opened, reason="Please do not paste whole songs.", lasts=["7d"])
    await here.discord.until(lambda: "is blocked until" in seen.content)
    await here.ask(members, people["eve"], "La la la?")
    await picture(members, boss, "admin-user")
    await picture(members, people["eve"], "blocked")
    await here.use(guild, boss, "config set", max_chat_logs=6, idle_time="36h")
    await here.use(guild, boss, "scene add", name="Captain Jack")
    await here.use(guild, boss, "persona lock", channel=guild.channel)
    await here.use(guild, boss, "admin unblock", member=people["eve"])
    assert asked is not None
    opened = await here.discord.menu(asked.messages()[0], people["bob"], "Report this answer")
    await here.discord.done(opened)
    await render.screenshot(render.modal_html(opened), FOLDER / "report-form.png")
    await here.discord.done(await here.discord.submit(opened, reason="It says Arr far too often."))
    await here.use(deletions, boss, "admin purge", what="everything", member=people["eve"])
    [question] = (await here.use(deletions, boss, "admin purge", what="conversations")).messages()
    await picture(deletions, boss, "admin-purge")
    opened = await here.discord.press(question, boss, "Delete")
    await here.discord.done(opened)
    await render.screenshot(render.modal_html(opened), FOLDER / "admin-purge-form.png")
    await here.discord.submit(opened, typed=guild.name)
    await here.discord.until(lambda: "### Deleted" in question.content)
    await here.use(log, boss, "admin audit")
    [reports] = (await here.use(log, boss, "admin reports")).messages()
    await picture(log, boss, "admin-audit")
    number = next(each for each in reports.all_components() if each["type"] == 3)["options"][0]["value"]
    await here.discord.select(reports, boss, number)
    await here.discord.until(lambda: "The answer" in reports.content)
    await picture(log, boss, "admin-report")


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


async def picture(channel: Channel, viewer: User, name: str) -> None:
    await render.screenshot(render.html(channel, viewer=viewer, width=760), FOLDER / f"{name}.png")
