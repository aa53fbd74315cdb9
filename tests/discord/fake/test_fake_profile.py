"""The bot's own profile in a guild of the fake Discord: what it takes, and what discord.py hears of it."""

from __future__ import annotations

import base64
import io

import discord
import pytest
from PIL import Image

from tests.discord.fake.fake_client import RecordingClient, wait_for
from tests.fakes.discord.server import FakeDiscord, Guild, Permission


def data_uri(kind: str = "png", declared: str = "png") -> str:
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, kind)
    return f"data:image/{declared};base64,{base64.b64encode(data.getvalue()).decode()}"


async def change(client: RecordingClient, guild: Guild, **body: str | None) -> None:
    route = discord.http.Route("PATCH", "/guilds/{guild_id}/members/@me", guild_id=guild.id)
    await client.http.request(route, json=body)


async def test_the_gateway_tells_of_the_bots_own_member(
    fake: FakeDiscord, client: RecordingClient, guild: Guild
) -> None:
    await wait_for(lambda: client.get_guild(guild.id) is not None)
    known = client.get_guild(guild.id)
    assert known is not None
    await change(client, guild, nick="Jack", avatar=data_uri())
    await wait_for(lambda: known.me.nick == "Jack")
    assert known.me.guild_avatar is not None
    await change(client, guild, nick=None, avatar=None)
    await wait_for(lambda: known.me.nick is None)
    assert (guild.bot_avatar, known.me.guild_avatar) == (None, None)
    assert fake.violations == []


@pytest.mark.parametrize(
    "body",
    [{"nick": "x" * 33}, {"nick": "Everyone"}, {"nick": "my discord"}, {"avatar": "https://example.org/a.png"},
     {"avatar": data_uri("jpeg", "png")}, {"avatar": "data:image/png;base64,AAAA"}],
)  # fmt: skip
async def test_what_it_refuses(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, body: dict[str, str | None]
) -> None:
    with pytest.raises(discord.HTTPException) as refused:
        await change(client, guild, **body)
    assert (refused.value.status, refused.value.code) == (400, 50035)
    assert fake.violations != []
    assert guild.nicknames == {}


async def test_a_nickname_needs_its_permission(client: RecordingClient, guild: Guild) -> None:
    guild.everyone &= ~Permission.CHANGE_NICKNAME
    with pytest.raises(discord.Forbidden):
        await change(client, guild, nick="Jack")
    await change(client, guild, avatar=data_uri())
    assert guild.bot_avatar is not None
