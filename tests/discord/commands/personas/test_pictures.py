"""Pictures of personas, and a guild's persona as the bot's own name and picture there."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from sqlalchemy import text

from models.engines import sync_engine
from models.urls import sync_url
from tests.discord.harness import World
from tests.fakes.discord.server import Attachment
from tests.fakes.discord.state import Permission

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"


def picture(kind: str = "PNG", size: int = 600, *, frames: int = 1) -> bytes:
    images = [Image.new("RGB", (size, size), (number * 40 % 256, 80, 120)) for number in range(frames)]
    data = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(data, kind, **more)
    return data.getvalue()


async def test_a_picture_is_made_small_and_kept(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    await here.use(guild, boss, "persona set", prompt="You are Jack.", name="Jack")
    for kind in ("PNG", "JPEG", "WEBP"):
        given = Attachment(f"face.{kind.lower()}", picture(kind))
        used = await here.use(guild, boss, "persona picture", name="jack", file=given)
        assert used.reply() == "This is **Jack** now."
        [kept] = used.messages()[0].attachments
        with Image.open(io.BytesIO(kept.content)) as image:
            assert (image.format, image.size) == ("PNG", (512, 512))
    for data, why in (
        (picture("GIF", 20, frames=3), "This picture moves"),
        (picture("WEBP", 20, frames=3), "This picture moves"),
        (b"%PDF-1.4 no picture", "This is no picture"),
        (picture()[:-200], "damaged"),
    ):
        refused = await here.use(guild, boss, "persona picture", name="Jack", file=Attachment("face.png", data))
        assert why in refused.reply()
    assert "Manage Server" in (await here.use(guild, ann, "persona picture", name="Jack")).reply()
    assert "There is no persona" in (await here.use(guild, ann, "me persona picture", name="Jack")).reply()
    assert (await here.use(guild, boss, "persona picture", name="Jack")).reply() == "The picture of **Jack** is gone."
    assert "has no picture" in (await here.use(guild, boss, "persona picture", name="Jack")).reply()
    await here.use(guild, ann, "me persona set", prompt="You are mine.", name="Mine")
    own = await here.use(guild, ann, "me persona picture", name="Mine", file=Attachment("me.png", picture()))
    assert own.reply() == "This is **Mine** now."


async def test_the_guilds_persona_as_the_bots_own_profile(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    bot = here.discord.bot.id
    await here.use(guild, boss, "persona set", prompt="You are Jack.", name="Jack of Discord")
    await here.use(guild, boss, "persona picture", name="Jack of Discord", file=Attachment("a.png", picture()))
    assert guild.nicknames.get(bot) is None
    used = await here.use(guild, boss, "persona face", how="profile")
    assert used.reply().startswith("This guild's persona is my name and picture here")
    assert guild.nicknames.get(bot) == "Jack of"
    assert guild.bot_avatar is not None
    # Its name is the bot's: only others have theirs above their answers.
    here.engine.reply("Arr.")
    assert (await here.ask(guild, ann, "Hello")).reply() == "Arr."
    await here.use(guild, ann, "me persona set", prompt="You are mine.", name="Mine")
    here.engine.reply("Mine it is.")
    assert (await here.ask(guild, ann, "Hello")).reply() == "**Mine**\nMine it is."

    off = await here.use(guild, boss, "persona face", how="off")
    assert "are my own again within a few minutes" in off.reply()
    assert guild.nicknames.get(bot) == "Jack of"
    engine = sync_engine(sync_url(here.database_url))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE guild_profiles SET sent_at = '2026-01-01 00:00:00.000000' WHERE guild_id = :id"),
            {"id": guild.id},
        )
    engine.dispose()
    # Any change of a persona wakes the job that looks after profiles.
    await here.use(guild, boss, "persona tags", name="Jack of Discord", tags="old")
    await here.discord.until(lambda: guild.nicknames.get(bot) is None)
    assert guild.bot_avatar is None


async def test_an_admin_is_told_what_is_missing(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    guild.everyone &= ~Permission.CHANGE_NICKNAME
    await here.use(guild, boss, "persona set", prompt="You are Jack.", name="Jack")
    assert "permission Change Nickname" in (await here.use(guild, boss, "persona face", how="profile")).reply()
    assert "permission Change Nickname" in (await here.use(guild, boss, "persona show")).reply()
    # As long as the bot is not called so, the name stands above the answers.
    here.engine.reply("Arr.")
    assert (await here.ask(guild, boss, "Hello")).reply() == "**Jack**\nArr."
    guild.everyone |= Permission.CHANGE_NICKNAME
    assert "Change Nickname" not in (await here.use(guild, boss, "persona face", how="profile")).reply()
    assert guild.nicknames.get(here.discord.bot.id) == "Jack"
    here.engine.reply("Arr.")
    assert (await here.ask(guild, boss, "Hello")).reply() == "Arr."
    # Another persona of the guild has its name above its answers until the profile has followed.
    await here.use(guild, boss, "persona set", prompt="You are Anne.", name="Anne")
    here.engine.reply("A queen.")
    assert (await here.ask(guild, boss, "Hello")).reply() == "**Anne**\nA queen."
    await here.use(guild, boss, "persona set", name="Jack")
    assert "Change Nickname" not in (await here.use(guild, boss, "persona show")).reply()
