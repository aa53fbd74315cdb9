"""What members are refused, and how their messages wait."""

from __future__ import annotations

import asyncio

from tests.discord.harness import World
from tests.screens.pictures import picture


async def limits(here: World) -> None:
    """What is left of the limits, a refusal, and the waiting messages with their buttons."""
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    await here.use(guild, boss, "config limits set", minute_messages=2, daily_messages=40)
    here.engine.reply("Oranges, mostly.")
    await here.ask(guild, ann, "What do you eat at sea?")
    here.engine.hang("Well, let me think")
    asked = await here.discord.chat(guild, ann, "And on land?")
    await here.discord.until(lambda: "let me think" in asked.reply())
    await here.ask(guild, ann, "And in the air?")
    await here.use(guild, ann, "quota")
    await here.use(guild, boss, "config reset", setting="limits")
    for text in ("What ship is that?", "Whose flag?"):
        await here.discord.chat(guild, ann, text)
    await asyncio.sleep(3)  # until the waiting messages say so
    await here.use(guild, ann, "queue")
    await picture(guild.channel, ann, "limits")
    here.engine.release()


async def refusals(here: World) -> None:
    """What a member reads whose messages are too many, and who is blocked; what managers read of their guild's day."""
    guild, boss = await here.member("boss", manager=True)
    ann, eve = here.discord.user("ann"), here.discord.user("eve")
    mention = f"<@{here.discord.bot.id}>"
    await here.use(guild, boss, "config limits set", minute_messages=1)
    here.engine.reply("Oranges, mostly.")
    await here.ask(guild, ann, "What do you eat at sea?")
    await here.discord.answered(await here.discord.say(guild, ann, f"{mention} and on land?"))
    for limit in ("daily_messages", "daily_tokens", "guild_daily_messages", "guild_daily_tokens"):
        await here.use(guild, boss, "config limits reset")
        await here.use(guild, boss, "config limits set", **{limit: 1})
        await here.ask(guild, ann, "And in the air?")
    await here.use(guild, boss, "admin block", member=eve, reason="Please do not paste whole songs.", duration="1h")
    await here.discord.answered(await here.discord.say(guild, eve, f"{mention} la la la?"))
    await picture(guild.channel, ann, "refusals")
    room = here.discord.channel(guild, "quota")
    await here.discord.announce(room)
    await here.use(room, boss, "quota")
    await here.use(room, boss, "queue")
    await picture(room, boss, "quota-of-a-manager")


async def filtered(here: World) -> None:
    """A message and an answer with a word that the guild keeps out."""
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    mention = f"<@{here.discord.bot.id}>"
    await here.use(guild, boss, "config filter words", action="add", words="gosh*, blast")
    await here.ask(guild, ann, "Gosh, what a storm!")
    await here.discord.answered(await here.discord.say(guild, ann, f"{mention} goshdarn it"))
    here.engine.reply("It was a real ", "blast", ", I tell you.")
    await here.discord.answered(await here.discord.say(guild, ann, f"{mention} how was the storm?"))
    here.engine.reply("A blast!")
    await here.ask(guild, ann, "And the second one?")
    await picture(guild.channel, ann, "filtered")
