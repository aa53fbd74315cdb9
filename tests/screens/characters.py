"""Personas: cards, the library, names and pictures, scenes, restricted by age."""

from __future__ import annotations

import io

from PIL import Image

from bot.characters.files.export import export_png
from tests.discord.chat.test_webhooks import spoken
from tests.discord.harness import World
from tests.fakes.discord.server import Attachment
from tests.fakes.discord.state import Permission
from tests.screens.pictures import form_picture, picture


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
    await form_picture(opened, "persona-form")


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


async def restricted(here: World) -> None:
    """A character that answers only in age-restricted channels: set, shown elsewhere, listed."""
    boss = here.discord.user("boss")
    guild = here.discord.guild("boss's guild", managers=(boss,))
    bar = here.discord.channel(guild, "bar", age_restricted=True)
    await here.discord.join(guild)
    await here.use(guild, boss, "persona set", prompt="You are Jack, an old pirate.", name="Captain Jack")
    wild = {"prompt": "You are Anne, a wild pirate.", "name": "Queen Anne", "where": "guild", "age_restricted": True}
    elsewhere = here.discord.channel(guild, "lobby")
    await here.discord.announce(elsewhere)
    await here.use(bar, boss, "persona set", **wild)
    await here.use(elsewhere, boss, "persona show")
    await here.use(elsewhere, boss, "persona rating", name="Queen Anne", age_restricted=True)
    await here.use(elsewhere, boss, "persona list")
    await picture(elsewhere, boss, "age-restricted")
