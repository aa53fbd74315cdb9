"""Users of the fake Discord who brought the application along, and what many refused requests lead to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import discord
import pytest
from discord import app_commands

from tests.discord.fake.fake_client import PLAIN, RawClient, RecordingClient, connected
from tests.fakes.discord.server import Channel, FakeDiscord, Guild, User

NONE = discord.AllowedMentions.none()


def add_commands(client: RecordingClient) -> None:
    @client.tree.command(description="Where am I?")
    @app_commands.allowed_installs(guilds=True, users=True)
    @app_commands.allowed_contexts(guilds=True, dms=True, private_channels=True)
    async def where(interaction: discord.Interaction) -> None:
        context = "guild" if interaction.context.guild else "dm" if interaction.context.dm_channel else "private"
        owned = interaction.is_user_integration(), interaction.is_guild_integration()
        await interaction.response.send_message(f"{context} {owned}", allowed_mentions=NONE)

    @client.tree.command(description="Only in guilds")
    async def here(interaction: discord.Interaction) -> None:
        await interaction.response.defer()


@pytest.fixture
def ann(fake: FakeDiscord, ann: User) -> User:
    fake.install(ann)
    return ann


@pytest.fixture
def foreign(fake: FakeDiscord) -> Guild:
    return fake.guild("Foreign", joined=False)


@pytest.fixture
async def client(fake: FakeDiscord, foreign: Guild, ann: User) -> AsyncIterator[RecordingClient]:
    async with connected(fake, setup=add_commands) as client:
        await client.tree.sync()
        yield client


async def test_a_user_brings_the_application_anywhere(
    fake: FakeDiscord, client: RecordingClient, foreign: Guild, ann: User
) -> None:
    bob, home = fake.user("bob"), fake.guild("Home")
    await fake.join(home)
    places: dict[str, Guild | Channel | User] = {
        "guild (True, False)": foreign, "guild (True, True)": home, "dm (True, False)": ann,
        "private (True, False)": fake.private(ann, bob),
    }  # fmt: skip
    for said, place in places.items():
        asked = await fake.command(place, ann, "where")
        await fake.done(asked)
        assert asked.reply() == said
    for place in (foreign, fake.private(bob, fake.user("carl"))):
        with pytest.raises(AssertionError, match="not installed"):
            await fake.command(place, bob, "where")
    with pytest.raises(AssertionError, match="not installed"):
        await fake.command(foreign, ann, "here")
    assert fake.violations == []


async def test_there_the_bot_has_no_access_of_its_own(
    fake: FakeDiscord, client: RecordingClient, foreign: Guild, ann: User, raw: RawClient
) -> None:
    said = await fake.say(foreign, ann, f"<@{fake.bot.id}> hello?")
    for channel in (foreign.channel, fake.private(ann, fake.user("bob"))):
        assert await raw.code("POST", f"/channels/{channel.id}/messages", PLAIN) == 50001
    asked = await fake.command(foreign, ann, "where")
    await fake.done(asked)
    assert said.id not in [each.id for each in client.named("message")]
    assert not list(client.guilds)
    assert not int(asked.json(1)["app_permissions"]) & discord.Permissions(view_channel=True).value
    assert fake.rest.num_invalid == 2


async def test_there_it_has_five_follow_ups_and_may_be_hidden(
    fake: FakeDiscord, foreign: Guild, ann: User, raw: RawClient
) -> None:
    ann.external_apps = False
    asked = await fake.force_command(foreign.channel, foreign, ann, "1", "chat")
    webhook = f"/webhooks/{fake.bot.id}/{asked.token}"
    fake.rest.limits["webhook"] = (100, 1.0)
    await raw.send("POST", f"/interactions/{asked.id}/{asked.token}/callback", {"type": 4, "data": PLAIN})
    assert [await raw.code("POST", webhook, PLAIN) for _ in range(6)] == [0] * 5 + [40094]
    assert [message.ephemeral for message in asked.messages()] == [True] * 6
    assert await raw.code("PATCH", f"{webhook}/messages/@original", PLAIN) == 0  # edits do not count
    ann.external_apps = True
    asked = await fake.force_command(foreign.channel, foreign, ann, "1", "chat")
    await raw.send("POST", f"/interactions/{asked.id}/{asked.token}/callback", {"type": 4, "data": PLAIN})
    assert [message.ephemeral for message in asked.messages()] == [False]


async def test_ten_thousand_invalid_requests_end_in_a_ban(fake: FakeDiscord, raw: RawClient, ann: User) -> None:
    guild = fake.guild("Alpha")
    guild.channel.bot_may_send = False
    assert await raw.code("POST", f"/channels/{guild.channel.id}/messages", PLAIN) == 50013
    fake.fail("GET", "/users/@me", retry_after=0.1)
    assert (await raw.send("GET", "/users/@me"))[0] == 429
    assert (await raw.send("GET", f"/channels/{guild.channel.id}/messages/5"))[0] == 404
    assert fake.rest.num_invalid == 2
    fake.rest._invalid_at.extend([fake.rest.now()] * 9_998)
    assert await raw.send("GET", "/users/@me") == (429, "error code: 1015")
    fake.advance(601)
    assert (await raw.send("GET", "/users/@me"))[0] == 200
