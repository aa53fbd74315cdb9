"""Character cards on Discord: preview, import, export and the menu, by whom and into which library; hostile files."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from bot.characters.files.reading import read_file
from tests.bot.characters.card_files import charx, png, text_chunk, v3
from tests.discord.harness import World
from tests.fakes.discord.server import Attachment, Guild, Interaction, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

CARD = v3(
    first_mes="Come in, {{user}}.",
    alternate_greetings=["Closed!"],
    creator="@everyone **Bo**",
    creator_notes="Use with [care](https://example.org).",
    personality="calm",
    post_history_instructions="Stay at the mill.",
    extensions={"fav": True},
    character_book={"entries": [{"keys": ["flour"], "content": "Flour is white.", "enabled": True}], "extensions": {}},
)


def as_file(card: object, name: str = "mira.png") -> Attachment:
    out = io.BytesIO()
    Image.new("RGB", (80, 60), (10, 120, 200)).save(out, "PNG")
    pixels = out.getvalue()
    data = pixels[:-12] + text_chunk(card, b"ccv3") + pixels[-12:]
    return Attachment(name, data, "image/png")


def message_of(used: Interaction) -> Message:
    [message] = used.messages()
    assert message.ephemeral
    return message


def buttons(message: Message) -> list[str]:
    return [each["label"] for each in message.all_components() if each["type"] == 2]


async def pressed(here: World, message: Message, user: User, label: str) -> str:
    before = message.content
    await here.discord.press(message, user, label)
    await here.discord.until(lambda: message.content != before)
    return message.content


async def exported(here: World, where: Guild | User, user: User, command: str, **options: str) -> tuple[str, bytes]:
    used = await here.use(where, user, f"{command} export", **options)
    [file] = message_of(used).attachments
    return file.filename, file.content


async def test_a_card_is_previewed_imported_and_exported_again(both: World) -> None:
    guild, ann = await both.member(manager=True)
    preview = message_of(await both.use(guild, ann, "persona import", file=as_file(CARD)))
    text = preview.content
    assert text.startswith("**Mira** · character card of version 3, PNG by @\u200beveryone \\*\\*Bo\\*\\*\n")
    assert "**It fits:** " in text
    assert "> Use with \\[care" in text
    assert (
        "**Used:** description (9 characters); personality (4 characters); instructions after the history (17" in text
    )
    assert "2 greetings; lorebook: 1 entry; picture" in text
    assert "**Kept for an export:** creator’s notes; creator; extensions: fav" in text
    assert buttons(preview) == ["Import", "Cancel"]
    assert "Mira" in (nothing := await both.use(guild, ann, "persona export", name="Mira")).reply()
    assert not message_of(nothing).attachments  # nothing is stored yet
    await both.discord.select(preview, ann, "1")
    done = await pressed(both, preview, ann, "Import")
    assert done == "**Mira** is among the personas of this guild. `/persona set name:Mira` lets it answer."
    assert buttons(preview) == []
    for form in ("png", "json"):
        name, data = await exported(both, guild, ann, "persona", name="mira", format=form)
        assert name == f"Mira.{form}"
        assert read_file(data).card.raw == {**CARD, "data": {**read_file(data).card.raw["data"]}}
        assert read_file(data).card.raw["data"]["extensions"] == {"fav": True}
        assert read_file(data).card.raw["data"]["character_book"] == CARD["data"]["character_book"]
    with Image.open(io.BytesIO((await exported(both, guild, ann, "persona", name="Mira"))[1])) as picture:
        assert picture.size == (80, 60)
        assert picture.convert("RGB").getpixel((5, 5)) == (10, 120, 200)


async def test_a_character_greets_and_is_regenerated_and_remembered(both: World) -> None:
    guild, ann = await both.member(manager=True)
    bob = both.discord.user("bob")
    preview = message_of(await both.use(guild, ann, "persona import", file=as_file(CARD)))
    await pressed(both, preview, ann, "Import")
    await both.use(guild, ann, "persona set", name="Mira")
    both.engine.reply("Hello there.")
    asked = await both.ask(guild, bob, "Hi")
    [message] = asked.messages()
    assert message.content == "> Hi\nCome in, Bob.\n\nHello there."
    prompt = both.engine.requests[-1].messages
    assert prompt[0]["content"].startswith("You are Mira, in a conversation with Bob.")
    assert prompt[2]["content"] == "Come in, Bob."
    assert prompt[-1]["content"].endswith("Stay at the mill.\n[End of the notes.]\n\nHi")
    both.engine.reply("Good day.")
    await both.discord.press(message, bob, label="Regenerate")
    await both.discord.until(lambda: "Good day." in message.content and not message.runs())
    assert message.content == "> Hi\nCome in, Bob.\n\nGood day."
    both.engine.reply("White.")
    await both.ask(guild, bob, "What is flour?")
    prompt = [each["content"] for each in both.engine.requests[-1].messages]
    assert prompt[1:3] == ["Hi", "Come in, Bob.\n\nGood day."]
    assert "Flour is white." in prompt[3]
    shown = message_of(await both.use(guild, bob, "history show")).content
    assert "Come in, Bob." in shown
    assert "Flour is white" not in shown
    # A text of one's own in place of the card's: the rest of the card stays.
    both.engine.reply("Bread!")
    await both.use(guild, bob, "reset")
    asked = await both.ask(guild, bob, "Hi")
    assert asked.messages()[0].content == "> Hi\nCome in, Bob.\n\nBread!"


async def test_another_greeting_is_chosen_later(both: World) -> None:
    guild, ann = await both.member(manager=True)
    bob = both.discord.user("bob")
    await pressed(both, message_of(await both.use(guild, ann, "persona import", file=as_file(CARD))), ann, "Import")
    await both.use(guild, ann, "persona set", name="Mira")
    shown = message_of(await both.use(guild, ann, "persona greeting", name="mira"))
    assert shown.content == "Conversations with **Mira** begin with:\n> Come in, Ann."
    [menu] = shown.all_components()
    assert [each["label"] for each in menu["options"]] == ["Come in, Ann.", "Closed!"]
    forged = await both.discord.force_component(shown, bob, menu["custom_id"], kind=3, values=["1"])
    await both.discord.done(forged)
    assert "Manage Server" in "".join(message.content for message in forged.messages())
    await both.discord.select(shown, ann, "1")
    await both.discord.until(lambda: shown.content.startswith("From now on, new conversations"))
    assert shown.content.endswith(" with **Mira** begin with:\n> Closed!")
    both.engine.reply("Hello there.")
    asked = await both.ask(guild, bob, "Hi")
    assert asked.messages()[0].content == "> Hi\nClosed!\n\nHello there."
    # It is a version of the persona, which can be taken back, and is no part of an export.
    assert read_file((await exported(both, guild, ann, "persona", name="Mira"))[1]).card.greeting == 0
    await both.use(guild, ann, "persona rollback", name="Mira", version=1)
    await both.use(guild, bob, "reset")
    both.engine.reply("Hello there.")
    asked = await both.ask(guild, bob, "Hi")
    assert asked.messages()[0].content == "> Hi\nCome in, Bob.\n\nHello there."
    await both.use(guild, ann, "persona set", prompt="You are plain.", name="Plain")
    none = message_of(await both.use(guild, ann, "persona greeting", name="Plain"))
    assert "no greetings to choose from" in none.content
    # In another library there is no persona of this id.
    other = await both.use(ann, ann, "me persona greeting", name="Mira")
    assert "There is no persona “Mira”" in other.reply()
    mine = await both.discord.force_component(
        shown, ann, menu["custom_id"].replace("guildcard", "card"), kind=3, values=["1"]
    )
    await both.discord.done(mine)
    await both.discord.until(lambda: "has been deleted meanwhile" in str([each.content for each in mine.messages()]))


async def test_a_card_with_many_greetings_offers_all_of_them(here: World) -> None:
    _, ann = await here.member()
    card = v3(first_mes="Zero", alternate_greetings=[f"Number {number}" for number in range(1, 60)])
    preview = message_of(await here.use(ann, ann, "me persona import", file=as_file(card)))
    assert [len(each.get("options", ())) for each in preview.all_components()][:3] == [25, 25, 10]
    assert len({each["custom_id"] for each in preview.all_components()}) == 5
    await here.discord.select(preview, ann, "59", custom_id=preview.all_components()[2]["custom_id"])
    await here.discord.until(lambda: preview.all_components()[2]["options"][-1]["default"])
    await pressed(here, preview, ann, "Import")
    shown = message_of(await here.use(ann, ann, "me persona greeting", name="Mira"))
    assert shown.content.endswith("> Number 59")
    await here.discord.select(shown, ann, "30", custom_id=shown.all_components()[1]["custom_id"])
    await here.discord.until(lambda: shown.content.endswith("> Number 30"))


async def test_a_name_that_is_taken_needs_another_one_or_a_replacement(here: World) -> None:
    guild, ann = await here.member(manager=True)
    await pressed(here, message_of(await here.use(guild, ann, "persona import", file=as_file(CARD))), ann, "Import")
    again = message_of(await here.use(guild, ann, "persona import", file=as_file(CARD)))
    assert "There is a persona “Mira” already. `name` gives it another one" in again.content
    other = message_of(await here.use(guild, ann, "persona import", file=as_file(CARD), name="Mira II"))
    assert "**Mira II** is among" in await pressed(here, other, ann, "Import")
    changed = {**CARD, "data": {**CARD["data"], "description": "A baker."}}
    new = message_of(await here.use(guild, ann, "persona import", file=as_file(changed), replace=True))
    assert "**Mira** is among" in await pressed(here, new, ann, "Import")
    assert json.loads((await exported(here, guild, ann, "persona", name="Mira", format="json"))[1])["data"][
        "description"
    ] == "A baker."  # fmt: skip
    # A name that is taken meanwhile is told when the button is pressed, and the card is not lost.
    early = message_of(await here.use(guild, ann, "persona import", file=as_file(CARD), name="Third"))
    late = message_of(await here.use(guild, ann, "persona import", file=as_file(CARD), name="Third"))
    await pressed(here, early, ann, "Import")
    assert "**Not imported:** There is a persona “Third” already" in await pressed(here, late, ann, "Import")
    assert buttons(late) == ["Import", "Cancel"]


async def test_members_keep_cards_for_themselves_also_in_direct_messages(here: World) -> None:
    guild, ann = await here.member()
    bob = here.discord.user("bob")
    for where in (guild, ann):
        preview = message_of(await here.use(where, ann, "me persona import", file=as_file(CARD)))
        assert "is among your own personas here" in await pressed(here, preview, ann, "Import")
        assert (await exported(here, where, ann, "me persona", name="Mira", format="json"))[0] == "Mira.json"
    for where in (guild, bob):
        refused = await here.use(where, bob, "me persona export", name="Mira")
        assert "Mira" in refused.reply()
        assert not message_of(refused).attachments
    assert await here.discord.autocomplete(guild, bob, "me persona export", option="name", typed="mi") == []
    [choice] = await here.discord.autocomplete(guild, ann, "me persona export", option="name", typed="mi")
    assert choice["value"] == "Mira"


async def test_only_managers_touch_the_guilds_library(here: World) -> None:
    guild, ann = await here.member()
    command = next(each for each in here.discord.rest.commands if each["name"] == "persona")
    for name, options in (("import", {"file": as_file(CARD)}), ("export", {"name": "Mira"})):
        used = await here.discord.force_command(guild.channel, guild, ann, command["id"], f"persona {name}", **options)
        await here.discord.done(used)
        assert "Manage Server" in used.reply()
    preview = message_of(await here.use(guild, ann, "me persona import", file=as_file(CARD)))
    number = preview.all_components()[-1]["custom_id"].split(":")[-1]
    forged = await here.discord.force_component(preview, ann, f"guildcard:import:{number}")
    await here.discord.done(forged)
    assert "Manage Server" in "".join(message.content for message in forged.messages())
    # Nor does anybody else press one's buttons, as a modified client may.
    stolen = await here.discord.force_component(preview, here.discord.user("bob"), f"card:import:{number}")
    await here.discord.done(stolen)
    assert "Only the person who used this command" in "".join(message.content for message in stolen.messages())
    assert "is among" not in preview.content
    for forged_id in ("card:import:x", "card:import:-1", "card:import:" + "9" * 30, "card:steal:1", "card:greeting:1"):
        used = await here.discord.force_component(preview, ann, forged_id)
        await here.discord.done(used)
    assert "is among" not in preview.content


async def test_the_menu_of_a_message_offers_the_libraries_that_a_member_has(here: World) -> None:
    guild, ann = await here.member(manager=True)
    bob = here.discord.user("bob")
    posted = await here.discord.say(
        guild,
        bob,
        "my card",
        files=[Attachment("notes.txt", b"x"), Attachment("a.png", png(), "image/png"), as_file(CARD)],
    )
    used = await here.discord.menu(posted, ann, "Import character card")
    await here.discord.done(used)
    preview = message_of(used)
    assert buttons(preview) == ["Import for this guild", "Import for me", "Cancel"]
    assert "is among your own personas" in await pressed(here, preview, ann, "Import for me")
    used = await here.discord.menu(posted, bob, "Import character card")
    await here.discord.done(used)
    assert buttons(message_of(used)) == ["Import", "Cancel"]
    assert await pressed(here, message_of(used), bob, "Cancel") == "I have not imported this card."
    plain = await here.discord.say(guild, bob, "no card", files=[Attachment("notes.txt", b"x")])
    used = await here.discord.menu(plain, ann, "Import character card")
    await here.discord.done(used)
    assert "no file that could be a character card" in used.reply()


async def test_hostile_and_wrong_files_are_refused_in_one_line(here: World) -> None:
    guild, ann = await here.member(manager=True)
    files = {
        "a picture without a character": Attachment("a.png", png(), "image/png"),
        "damaged": Attachment("a.png", png()[:-20], "image/png"),
        "not a character card": Attachment("a.txt", b"hello"),
        "archives within it": Attachment("a.charx", charx(v3(), ("x.zip", b"x")), "application/zip"),
        "point outside": Attachment("a.charx", charx(v3(), ("../x", b"x")), "application/zip"),
        "at most 8 MiB": Attachment("a.charx", bytes((8 << 20) + 1), "application/zip"),
        "This file is empty": Attachment("a.json", b"", "application/json"),
    }
    for expected, file in files.items():
        used = await here.use(guild, ann, "persona import", file=file)
        assert expected in used.reply()
        assert "\n" not in used.reply()
        assert not message_of(used).all_components()


async def test_a_character_that_does_not_fit_says_so_and_cannot_be_imported(here: World) -> None:
    guild, ann = await here.member(manager=True)
    preview = message_of(await here.use(guild, ann, "persona import", file=as_file(v3(description="word " * 5_000))))
    assert "**It does not fit:** " in preview.content
    assert buttons(preview) == ["Cancel"]


async def test_a_preview_does_not_outlive_the_bot(here: World) -> None:
    guild, ann = await here.member(manager=True)
    preview = message_of(await here.use(guild, ann, "persona import", file=as_file(CARD)))
    await here.bot.stop()
    await here.start_bot()
    assert "I no longer have this card" in await pressed(here, preview, ann, "Import")
    assert "description" not in here.bot.log() or "A miller" not in here.bot.log()
