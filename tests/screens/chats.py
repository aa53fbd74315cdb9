"""Conversations: questions and answers, while they grow and afterwards, with files, in threads, with notes."""

from __future__ import annotations

import asyncio

from tests.discord.harness import World
from tests.fakes.discord.server import Attachment
from tests.fakes.engine.notes import is_notes, note_taker
from tests.screens.pictures import form_picture, picture

CODE = """\
Sure! A set remembers what came before:

```python
def unique(items):
    seen = set()
    for item in items:
        if item not in seen:
            seen.add(item)
            yield item
```

It keeps the **order** of the first appearance, and works with anything that can be hashed."""


async def chat(here: World) -> None:
    """A question by command, a mention, and a reply to the answer."""
    guild, ann = await here.member("ann")
    bob = here.discord.user("bob")
    bot = here.discord.bot
    here.engine.reply("Arr! A fine morning to ye, Ann. The kettle be on and the parrot be quiet, for once.")
    await here.ask(guild, ann, "Good morning, who are you?")
    here.engine.reply("I sail where the wind takes me, and tonight it takes me to *Tortuga*.")
    asked = await here.discord.say(guild, bob, f"<@{bot.id}> where do you sail tonight?")
    [answer] = await here.discord.answered(asked)
    here.engine.reply("Three days, if the wind holds. Bring oranges.")
    again = await here.discord.say(guild, bob, "How long will that take?", reply_to=answer)
    await here.discord.answered(again)
    await picture(guild.channel, ann, "chat")


async def another_reply(here: World) -> None:
    """Another reply in the same message, with the way back to the first one."""
    guild, ann = await here.member("ann")
    here.engine.reply("Use `dict.fromkeys(items)`.")
    asked = await here.ask(guild, ann, "How do I drop duplicates from a list in Python, in order?")
    [message] = asked.messages()
    here.engine.reply(CODE)
    await here.discord.press(message, ann, label="Regenerate")
    await here.discord.until(lambda: "hashed" in message.content and not message.runs())
    await picture(guild.channel, ann, "another-reply")


async def running(here: World) -> None:
    """A reply that is being written."""
    guild, ann = await here.member("ann")
    here.engine.hang("Once upon a time, in a harbour full of fog, there lived a lighthouse keeper who")
    asked = await here.discord.chat(guild, ann, "Tell me a story about a lighthouse")
    await here.discord.until(lambda: "keeper who" in asked.reply())
    await picture(guild.channel, ann, "running")
    here.engine.release()


async def thinking(here: World) -> None:
    """A model that thinks: while it does, afterwards, and an answer that began to repeat itself."""
    guild, ann = await here.member("ann")
    bob = here.discord.user("bob")
    here.engine.reply("<think>", *["hm "] * 12, "</think>", "Seventeen people fit, if two of them stand.", pace=0.25)
    await here.ask(guild, ann, "We are 17 and have 15 chairs. Do we fit?")
    here.engine.reply("Row, row, row the boat. ", *["Gently down the stream. "] * 500)
    await here.ask(guild, ann, "Sing something")
    here.engine.hang("<think>", "hm ")
    asked = await here.discord.say(guild, bob, f"<@{here.discord.bot.id}> and with a dog?")
    await here.discord.until(lambda: any("💭" in answer.content for answer in here.discord.answers(asked)))
    await picture(guild.channel, ann, "thinking")
    here.engine.release()


async def edit(here: World) -> None:
    """The form with which a member edits what they said."""
    guild, ann = await here.member("ann")
    asked = await here.ask(guild, ann, "My favourite colour is blu")
    opened = await here.discord.press(asked.messages()[0], ann, label="Edit")
    await here.discord.done(opened)
    await form_picture(opened, "edit")


async def together(here: World) -> None:
    """A thread in which two members share one conversation."""
    guild, ann = await here.member("ann")
    bob = here.discord.user("bob")
    started = await here.use(guild, ann, "thread start", name="Planning the trip")
    thread = next(each for each in here.discord.rest.channels.values() if each.name == "Planning the trip")
    mention = f"<@{here.discord.bot.id}>"
    here.engine.reply("A fine idea, Ann. Three days in Bergen, then the train over the mountains?")
    await here.discord.answered(await here.discord.say(thread, ann, f"{mention} where should we go in May?"))
    here.engine.reply("Then Ann gets her fjords and you, Bob, get the train. I would take four days.")
    await here.discord.answered(
        await here.discord.say(thread, bob, f"{mention} I want to sit in a train most of the time")
    )
    assert started.messages()[0].ephemeral
    await picture(thread, ann, "together")


async def file(here: World) -> None:
    """A file that came with a question, and one that could not be read."""
    guild, ann = await here.member("ann")
    here.engine.reply("It keeps the first of each item, in order. The generator never holds more than the set.")
    code = Attachment("unique.py", CODE.encode(), content_type="text/x-python")
    await here.ask(guild, ann, "What does this do?", file=code, file2=Attachment("talk.mp3", b"ID3" + bytes(50)))
    await picture(guild.channel, ann, "file")


async def memory(here: World) -> None:
    """What is remembered of a member, as they read it, and what an answer was made of."""
    here.engine.default = note_taker
    guild, admin = await here.member("admin", manager=True)
    ann = here.discord.user("ann")
    await here.use(guild, admin, "config memory on")
    await here.use(guild, admin, "config set", max_chat_logs=2)
    await here.use(guild, ann, "memory on")
    await here.use(guild, ann, "memory add", note="I am allergic to peanuts")
    for said in ("I live in Bergen since May", "I have a dog called Pixel", "Good morning"):
        await here.ask(guild, ann, said)
    # Two facts and a line of the summary.
    await here.discord.until(lambda: sum(map(is_notes, here.engine.requests)) >= 3)
    await asyncio.sleep(0.5)
    await here.use(guild, ann, "memory show")
    await picture(guild.channel, ann, "memory")
    here.engine.reply("Take a rain jacket, Pixel will want to go out anyway. And no peanut bar on the way!")
    asked = await here.ask(guild, ann, "What should I take along for a walk in Bergen?")
    used = await here.discord.menu(asked.messages()[0], ann, "Why this answer?")
    await here.discord.done(used)
    await picture(guild.channel, ann, "why")


async def information(here: World) -> None:
    """What a member and a manager are told that they can do, and what is stored about them."""
    guild, boss = await here.member("boss", manager=True)
    await here.ask(guild, boss, "Ahoy")
    rooms = [here.discord.channel(guild, name) for name in ("help", "privacy")]
    for each in rooms:
        await here.discord.announce(each)
    await here.use(rooms[0], boss, "help")
    await picture(rooms[0], boss, "help")
    await here.use(rooms[1], boss, "privacy show")
    await here.use(rooms[1], boss, "privacy delete")
    await picture(rooms[1], boss, "privacy")
