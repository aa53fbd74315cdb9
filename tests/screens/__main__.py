"""Each scene is a short conversation, written to one picture."""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from PIL import Image

from bot.characters.files.export import export_png
from models.migrate import upgrade
from tests.discord.chat.test_webhooks import spoken
from tests.discord.harness import World, world
from tests.fakes.discord import render
from tests.fakes.discord.server import Attachment
from tests.fakes.discord.state import Permission
from tests.fakes.engine.notes import is_notes, note_taker
from tests.screens.administration import admin

FOLDER = Path(__file__).parents[2] / "docs" / "screens"
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
Scene = Callable[[World], Awaitable[None]]


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
    await render.screenshot(render.modal_html(opened), FOLDER / "edit.png")


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


def card() -> Attachment:
    """A character card as a PNG."""
    image = io.BytesIO()
    drawn = Image.linear_gradient("L").resize((400, 500))
    Image.merge("RGB", (drawn, drawn.transpose(Image.Transpose.FLIP_TOP_BOTTOM), drawn)).save(image, "PNG")
    entries = [
        {"keys": [word], "content": f"About {word}.", "enabled": True, "position": "before_char"}
        for word in ("fog bell", "keeper", "ferry", "mainland")
    ]
    entries[0]["content"] = "@@role system\nThe fog bell rings by itself."
    data = {
        "name": "Marla",
        "description": "{{char}} keeps the lighthouse of a small island. " * 12,
        "personality": "dry, patient, fond of weather reports",
        "first_mes": "*Marla wipes salt off the window.* Evening, {{user}}. You rowed all this way in that?",
        "alternate_greetings": ["Mind the third step, it is missing.", "You are late. The kettle is not."],
        "mes_example": "<START>\n{{user}}: Is it safe?\n{{char}}: The rock is. The stairs have opinions.",
        "post_history_instructions": "Keep to two or three sentences.",
        "creator": "harbourmaster",
        "creator_notes": "Best for slow evenings. Ask her about the fog bell; **never** about the mainland.",
        "tags": ["cosy"],
        "extensions": {"depth_prompt": {"depth": 4}},
        "character_book": {"entries": entries, "extensions": {}},
    }
    made = {"spec": "chara_card_v3", "spec_version": "3.0", "data": data}
    return Attachment("marla.png", export_png(made, image.getvalue()), content_type="image/png")


async def character(here: World) -> None:
    """A card's preview, what became of it, and how the character answers for the first time."""
    ann = here.discord.user("ann")
    guild = here.discord.guild("ann's guild", managers=(ann,))
    await here.discord.join(guild)
    used = await here.use(guild, ann, "persona import", file=card())
    [preview] = used.messages()
    await picture(guild.channel, ann, "card")
    await here.discord.press(preview, ann, label="Import")
    await here.discord.until(lambda: "is among" in preview.content)
    await here.use(guild, ann, "persona set", name="Marla")
    here.engine.reply(
        "The ferry comes on Thursday, if it remembers us. Sit by the stove, and tell me what you ran from."
    )
    await here.ask(guild, here.discord.user("bob"), "Hello? When does the next boat leave?")
    await here.use(guild, ann, "persona greeting", name="Marla")
    await picture(guild.channel, ann, "character")


async def personas(here: World) -> None:
    """Who answers here and why, for everyone; the library; what is said when an admin changes it."""
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    category = here.discord.category(guild, "Games")
    chess = here.discord.channel(guild, "chess", category=category)
    for channel in (category, chess):
        await here.discord.announce(channel)
    pirate = "You are Jack, an old pirate. You talk about the sea, and answer in two sentences at most."
    await here.use(guild, boss, "persona set", prompt=pirate, name="Captain Jack")
    await here.use(guild, boss, "persona set", prompt="You are a chess teacher. Be patient.", name="Caïssa")
    await here.use(guild, boss, "persona set", name="Captain Jack")
    for name, tags in (("Captain Jack", "sea, fun"), ("Caïssa", "chess, teacher")):
        await here.use(guild, boss, "persona tags", name=name, tags=tags)
    await here.use(chess, boss, "persona set", name="Caïssa", where="channel")
    await here.use(chess, ann, "me persona set", prompt="You are a poet.", name="Rhymer")
    await here.use(guild, boss, "persona lock", channel=category)
    await here.use(chess, ann, "persona show")
    await here.use(chess, ann, "persona list")
    await picture(chess, ann, "personas")
    await here.use(chess, boss, "persona set", name="Caïssa", where="channel", conversations="afresh")
    await here.ask(guild, ann, "Ahoy")
    await here.use(chess, boss, "persona set", name="Captain Jack")
    await here.use(chess, boss, "scene add", name="Caïssa")
    await here.use(chess, boss, "persona delete", name="Caïssa")
    await picture(chess, boss, "personas-of-an-admin")
    opened = await here.use(chess, boss, "persona edit", name="Captain Jack")
    await render.screenshot(render.modal_html(opened), FOLDER / "persona-form.png")


async def faces(here: World) -> None:
    """Names above answers, and a picture for a persona."""
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    await here.use(guild, boss, "persona set", prompt="You are Jack, an old pirate.", name="Captain Jack")
    await here.use(guild, boss, "persona face", how="name")
    here.engine.reply("Arr! Three days, if the wind holds. Bring oranges.")
    await here.ask(guild, ann, "How long is it to Tortuga?")
    await here.use(guild, ann, "me persona set", prompt="You are a poet.", name="Rhymer")
    here.engine.reply("Three days the wind, three nights the sea,\nand then the lights of Tortuga for thee.")
    asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> and how long for you?")
    await here.discord.answered(asked)
    await here.use(guild, ann, "persona show")
    await picture(guild.channel, ann, "faces")
    data = io.BytesIO()
    Image.radial_gradient("L").resize((600, 600)).save(data, "PNG")
    await here.use(guild, boss, "persona picture", name="Captain Jack", file=Attachment("jack.png", data.getvalue()))
    await here.use(guild, boss, "persona face", how="profile")
    guild.everyone &= ~Permission.CHANGE_NICKNAME
    await here.use(guild, boss, "persona set", prompt="You are Anne.", name="Queen Anne")
    await here.use(guild, boss, "persona face", how="off")
    await picture(guild.channel, boss, "faces-of-an-admin")


async def scene(here: World) -> None:
    """Two characters in one channel: the one that is named answers, else the next."""
    guild, boss = await here.member("boss", manager=True)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    for name in ("Captain Jack", "Queen Anne"):
        await here.use(guild, boss, "persona set", prompt=f"You are {name}.", name=name)
        added = await here.use(guild, boss, "scene add", name=name)
    assert added.messages()[0].ephemeral
    await here.use(guild, boss, "config set", scope="channel")
    here.engine.reply("Arr, me, of course. Who else would have brought her through that storm?")
    await here.ask(guild, ann, "Whose ship is this?")
    here.engine.reply("It sails under my flag, Captain. You hold the wheel, I hold the letter of marque.")
    said = await here.discord.say(guild, bob, f"<@{here.discord.bot.id}> is that so?")
    await here.discord.answered(said)
    here.engine.reply("A letter is paper. *Throws an orange at the Queen.*")
    said = await here.discord.say(guild, bob, f"<@{here.discord.bot.id}> captain jack, defend yourself!")
    await here.discord.answered(said)
    await here.use(guild, ann, "scene list")
    await picture(guild.channel, ann, "scene")


async def webhooks(here: World) -> None:
    """Two characters, each under its own name, and a member who replies to one of them."""
    guild, boss = await here.member("boss", manager=True)
    guild.bot_role.permissions |= Permission.MANAGE_WEBHOOKS
    await here.discord.announce(guild.bot_role, guild)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    mention = f"<@{here.discord.bot.id}>"
    for name in ("Captain Jack", "Queen Anne"):
        await here.use(guild, boss, "persona set", prompt=f"You are {name}.", name=name)
        await here.use(guild, boss, "scene add", name=name)
    data = io.BytesIO()
    Image.radial_gradient("L").resize((300, 300)).save(data, "PNG")
    await here.use(guild, boss, "persona picture", name="Queen Anne", file=Attachment("anne.png", data.getvalue()))
    await here.use(guild, boss, "config set", scope="channel")
    await here.use(guild, boss, "persona face", how="webhook")
    said = [
        (ann, f"{mention} whose ship is this?", "Arr, mine, of course. Who else brought her through that storm?"),
        (
            bob,
            f"{mention} is that so?",
            "It sails under my flag, Captain. You hold the wheel, I hold the letter of marque.",
        ),
        (bob, f"{mention} and what do you say to that?", "A letter is paper. *Throws an orange at the Queen.*"),
    ]
    for number, (user, words, reply) in enumerate(said, 1):
        here.engine.reply(reply)
        to_jack = here.discord.spoken(guild)[0] if number == 3 else None
        await here.discord.say(guild, user, words, reply_to=to_jack)
        await spoken(here, guild, number)
    await here.use(guild, ann, "persona show")
    await picture(guild.channel, ann, "webhooks")


async def korean(here: World) -> None:
    """A guild that speaks Korean: a question, another one that was refused, and who answers there."""
    minji, jun = here.discord.user("민지"), here.discord.user("준")
    minji.locale = jun.locale = "ko"
    guild = here.discord.guild("한국 서버", managers=(minji,))
    guild.locale = "ko"
    await here.discord.join(guild)
    await here.use(guild, minji, "persona set", prompt="너는 달에 사는 토끼야.", name="달토끼")
    here.engine.reply("안녕하세요! 저는 달에서 떡방아를 찧는 토끼예요. 오늘은 보름달이라 조금 바쁘답니다.")
    asked = await here.ask(guild, minji, "안녕, 너는 누구야?")
    await here.discord.press(asked.messages()[0], jun, label="잊기")
    await here.use(guild, minji, "persona show")
    await here.use(guild, minji, "config show")
    await picture(guild.channel, minji, "korean")


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


async def settings(here: World) -> None:
    """The panel of a guild's settings, page by page, a form, and what a file would change."""
    boss, ann = here.discord.user("boss"), here.discord.user("ann")
    guild = here.discord.guild("boss's guild", managers=(boss,))
    friends = here.discord.role(guild, "friends", ann)
    await here.discord.join(guild)
    category = here.discord.category(guild, "Library")
    bots, place = here.discord.channel(guild, "bots"), here.discord.channel(guild, "settings")
    for each in (category, bots, place):
        await here.discord.announce(each)
    await here.use(guild, boss, "config set", max_chat_logs=6, idle_time="36h", daily_messages=200)
    for channel in (guild.channel, bots):
        await here.use(guild, boss, "config channels add", channel=channel)
    await here.use(guild, boss, "config channels scope", channel=bots, scope="thread")
    await here.use(guild, boss, "config roles add", role=friends)
    await here.use(guild, boss, "config limits role", role=friends, daily_messages=500, running_replies=2)
    await here.use(guild, boss, "config limits set", minute_messages=10, guild_daily_tokens=2_000_000)
    await here.use(guild, boss, "config filter words", action="add", words="gosh*, darn, very silly")
    await here.use(guild, boss, "config filter threshold", category="violence", score=0.5)
    await here.use(guild, boss, "persona lock", channel=category)
    exported = await here.use(guild, boss, "config export")
    file = exported.messages()[0].attachments[0]
    opened = await here.use(place, boss, "config panel")
    [panel] = opened.messages()
    await picture(place, boss, "settings-conversations")
    for page in ("where", "replies", "limits", "together", "safety", "memory"):
        menu = next(each for each in panel.all_components() if each["custom_id"].startswith("config:page"))
        await here.discord.select(panel, boss, page, custom_id=menu["custom_id"])
        await here.discord.until(lambda page=page: f":{PAGE_SIGNS[page]}:" in str(panel.components))
        await picture(place, boss, f"settings-{page}")
    await here.discord.click(panel, boss, label="Switch on")
    await here.discord.until(lambda: "Saved" in str(panel.components))
    await picture(place, boss, "settings-memory")
    menu = next(each for each in panel.all_components() if each["custom_id"].startswith("config:page"))
    await here.discord.select(panel, boss, "talk", custom_id=menu["custom_id"])
    await here.discord.until(lambda: ":idle_time:" in str(panel.components))
    button = next(
        each for each in panel.buttons() if ":open:" in each["custom_id"] and "idle_time" in each["custom_id"]
    )
    form = await here.discord.press(panel, boss, custom_id=button["custom_id"])
    await here.discord.done(form)
    await render.screenshot(render.modal_html(form), FOLDER / "settings-form.png")
    await here.use(guild, boss, "config reset", setting="everything")
    elsewhere = here.discord.channel(guild, "import")
    await here.discord.announce(elsewhere)
    text = file.content.decode().replace(str(bots.id), "123456789012345678")
    await here.use(elsewhere, boss, "config import", file=Attachment("settings.json", text.encode()))
    await picture(elsewhere, boss, "settings-import")
    own = here.discord.channel(guild, "me")
    await here.discord.announce(own)
    await here.use(own, ann, "me settings", retention_days=7, private=True)
    await picture(own, ann, "settings-own")


PAGE_SIGNS = {
    "where": "persona_locks",
    "replies": "streaming",
    "limits": "daily_tokens",
    "together": "guild_daily_tokens",
    "safety": "filter_words",
    "memory": "memory",
}
"""A setting of each page."""


async def picture(channel: object, viewer: object, name: str) -> None:
    """Write one picture of a channel."""
    page = render.html(channel, viewer=viewer, width=760)  # type: ignore[arg-type]
    await render.screenshot(page, FOLDER / f"{name}.png")


async def main(names: list[str]) -> None:
    """Draw all scenes, or those with these names."""
    scenes: list[Scene] = [
        chat, another_reply, running, thinking, edit, together, file, personas, character, memory, faces, scene,
        webhooks, korean, admin, settings, limits,
    ]  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/screens.db"
        upgrade(url)
        async with world(url, Path(folder)) as here:
            for each in scenes:
                if not names or each.__name__ in names:
                    await each(here)
                    sys.stdout.write(f"{each.__name__}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
