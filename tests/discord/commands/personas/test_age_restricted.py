"""Personas that are restricted by age answer only in channels that Discord restricts so, their threads included."""

from __future__ import annotations

import json

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Attachment, Place, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"

DEFAULT = "You are a helpful assistant. Answer briefly."


async def told(here: World, place: Place, user: User) -> str:
    """The system prompt with which this member is answered there."""
    await here.ask(place, user, "Who are you?")
    first = here.engine.requests[-1].messages[0]
    return first["content"] if first["role"] == "system" else ""


async def test_a_restricted_persona_answers_only_in_such_channels_and_their_threads(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    bar = here.discord.channel(guild, "bar", age_restricted=True)
    await here.discord.join(guild)
    booth = here.discord.channel(guild, "booth", parent=bar)
    await here.use(guild, boss, "persona set", prompt="You are plain.", name="Plain")
    wild = {"prompt": "You are wild.", "name": "Wild", "where": "guild", "age_restricted": True}
    done = await here.use(bar, boss, "persona set", **wild)
    assert "only in channels that Discord restricts by age, as this one" in done.reply()
    assert await told(here, guild, boss) == DEFAULT  # it is set for the guild, and nothing wider is
    assert await told(here, bar, boss) == "You are wild."
    assert await told(here, booth, boss) == "You are wild."
    shown = (await here.use(guild, boss, "persona show")).reply()
    assert "not here: it is age-restricted, and this channel is not" in shown
    assert shown.startswith("The persona of this bot's owner answers you here")
    assert "**Wild** answers you here" in (await here.use(booth, boss, "persona show")).reply()
    # With a plain one for the guild, that one answers elsewhere.
    await here.use(guild, boss, "persona set", name="Plain")
    await here.use(guild, boss, "persona set", name="Wild", where="channel")
    assert await told(here, guild, boss) == "You are plain."
    assert "**Wild** \N{NO ONE UNDER EIGHTEEN SYMBOL}" in (await here.use(guild, boss, "persona list")).reply()
    assert (
        "answers wherever it is set"
        in (await here.use(guild, boss, "persona rating", name="Wild", age_restricted=False)).reply()
    )
    assert await told(here, guild, boss) == "You are wild."


async def test_a_members_own_one_answers_neither_elsewhere_nor_in_direct_messages(both: World) -> None:
    here = both
    guild, ann = await here.member()
    bar = here.discord.channel(guild, "bar", age_restricted=True)
    await here.discord.join(guild)
    for place in (guild, ann):
        await here.use(place, ann, "me persona set", prompt="You are mine.", name="Mine", age_restricted=True)
    assert await told(here, guild, ann) == DEFAULT
    assert await told(here, ann, ann) == DEFAULT
    assert await told(here, bar, ann) == "You are mine."
    rated = await here.use(ann, ann, "me persona rating", name="Mine", age_restricted=False)
    assert "**Mine** is not age-restricted any more" in rated.reply()
    assert await told(here, ann, ann) == "You are mine."
    assert await told(here, guild, ann) == DEFAULT  # each guild has its own library


async def test_a_restricted_character_plays_in_no_scene_elsewhere(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    bar = here.discord.channel(guild, "bar", age_restricted=True)
    await here.discord.join(guild)
    for name, restricted in (("Anne", False), ("Wanda", True)):
        await here.use(guild, boss, "persona set", prompt=f"You are {name}.", name=name, age_restricted=restricted)
    await here.use(guild, boss, "persona clear")
    for place in (guild, bar):
        for name in ("Anne", "Wanda"):
            listed = await here.use(place, boss, "scene add", name=name)
    assert "**Wanda** \N{NO ONE UNDER EIGHTEEN SYMBOL}" in listed.reply()
    for place, answers in ((guild, {"You are Anne."}), (bar, {"You are Anne.", "You are Wanda."})):
        prompts = set()
        for text in ("Hello Wanda", "Hello Anne"):
            await here.ask(place, boss, text)
            prompts.add(here.engine.requests[-1].messages[0]["content"].partition("\n")[0])
        assert prompts == answers
    await here.use(guild, boss, "scene remove", name="Anne")
    assert await told(here, guild, boss) == DEFAULT  # the scene rests
    assert "Wanda" in (await here.use(guild, boss, "scene list")).reply()


async def test_a_cards_tags_restrict_it(both: World) -> None:
    here = both
    guild, ann = await here.member()
    data = {"name": "Vamp", "description": "Bites.", "tags": ["Fantasy", "NSFW"], "first_mes": ""}
    card = json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": data}).encode()
    file = Attachment("vamp.json", card, "application/json")
    preview = await here.use(guild, ann, "me persona import", file=file)
    assert "**Age-restricted**, as its tags say" in preview.reply()
    pressed = await here.discord.press(preview.messages()[0], ann, "Import")
    await here.discord.done(pressed)
    await here.discord.until(lambda: "is among your own personas" in preview.messages()[0].content)
    assert "\N{NO ONE UNDER EIGHTEEN SYMBOL}" in (await here.use(guild, ann, "me persona list")).reply()
