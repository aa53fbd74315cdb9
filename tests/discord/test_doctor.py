"""`guildllama doctor` against Discord: token, intents, starts, permissions in guilds, commands, clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from bot.settings import Settings
from bot.terminal.doctor import discord as part
from bot.terminal.doctor import discord_api
from bot.terminal.doctor.findings import Finding
from tests.discord.harness import World
from tests.fakes.discord.gateway import MESSAGE_CONTENT
from tests.fakes.discord.server import FakeDiscord
from tests.fakes.discord.state import EVERYONE, Permission


@pytest.fixture
async def discord() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord() as fake:
        yield fake
        assert fake.violations == []


async def ask(discord: FakeDiscord, **values: object) -> dict[str, list[Finding]]:
    """The findings by their parts."""
    given = {"discord_api_base": discord.url, "discord_token": discord.token, **values}
    settings = Settings(_env_file=None, **given)  # type: ignore[arg-type]
    assert settings.discord_token
    found: dict[str, list[Finding]] = {}
    for each in await part._ask(settings, settings.discord_token.get_secret_value()):
        found.setdefault(each.part, []).append(each)
    return found


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bot_that_runs_is_well_and_has_these_commands(here: World) -> None:
    await here.member()
    found = await ask(here.discord)
    assert {name: each[0].status for name, each in found.items()} == {
        "discord": "ok", "guilds": "ok", "commands": "ok", "clock": "ok",
    }  # fmt: skip
    command = here.discord.rest.commands[0]
    command["description"] += "!"
    here.discord.rest.commands.append({**command, "name": "gone", "type": 1})
    [commands] = (await ask(here.discord))["commands"]
    assert commands.status == "note"
    assert f"in 2: {command['name']}, gone" in commands.found
    assert commands.fix.startswith("guildllama run")


async def test_a_token_that_is_refused(discord: FakeDiscord) -> None:
    found = await ask(discord, discord_token="wrong.token.here")
    [wrong] = found.pop("discord")
    assert found == {}
    assert wrong.status == "bad"
    assert "Reset Token" in wrong.fix
    assert "wrong.token" not in wrong.found


async def test_an_intent_that_is_not_switched_on(discord: FakeDiscord) -> None:
    discord.gateway.allowed_intents &= ~MESSAGE_CONTENT
    [wrong] = (await ask(discord, message_content=True))["intents"]
    assert wrong.status == "bad"
    assert "intents" not in await ask(discord)
    discord.gateway.allowed_intents |= MESSAGE_CONTENT
    assert "intents" not in await ask(discord, message_content=True)


async def test_permissions_in_each_guild(discord: FakeDiscord) -> None:
    [nowhere] = (await ask(discord))["guilds"]
    assert "in no guild" in nowhere.found
    assert f"client_id={discord.bot.id}&scope=bot+applications.commands&permissions=" in nowhere.fix
    discord.guild("fine")
    mute = discord.guild("mute")
    mute.everyone = EVERYONE & ~(Permission.SEND_MESSAGES | Permission.ATTACH_FILES)
    [line] = (await ask(discord))["permissions"]
    assert f"mute ({mute.id}) does not give the bot Send Messages, Attach Files" in line.found
    boss = discord.guild("boss")
    boss.everyone = Permission(0)
    discord.role(boss, "bot", discord.bot, permissions=Permission.ADMINISTRATOR)
    assert len((await ask(discord))["permissions"]) == 1


async def test_guilds_come_in_pages_and_only_some_are_named(
    discord: FakeDiscord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discord_api, "_PAGE", 3)
    for number in range(8):
        discord.guild(f"guild {number}").everyone = EVERYONE & ~Permission.SEND_MESSAGES
    lines = (await ask(discord))["permissions"]
    assert len(lines) == 6
    assert "3 more guilds" in lines[-1].found


async def test_too_many_starts_and_too_few_shards(discord: FakeDiscord) -> None:
    settings = Settings(_env_file=None)
    limit = {"total": 1000, "remaining": 0, "reset_after": 3_600_000, "max_concurrency": 1}
    [shards, starts] = part._gateway(settings, {"shards": 4, "session_start_limit": limit})
    assert (shards.status, starts.status) == ("bad", "bad")
    assert "GUILDLLAMA_SHARDS=0-3/4" in shards.fix
    assert "60 minutes" in starts.found


async def test_a_clock_that_is_wrong() -> None:
    [wrong] = part._clock(datetime.now(UTC) - timedelta(minutes=5))
    assert (wrong.status, wrong.fix) == ("bad", "timedatectl set-ntp true")


@pytest.mark.parametrize("status", [500, 429, 403])
async def test_discord_in_trouble_is_no_fault_of_ours(discord: FakeDiscord, status: int) -> None:
    discord.fail("GET", "/gateway/bot", status=status)
    found = await ask(discord)
    assert {each.status for lines in found.values() for each in lines} <= {"ok", "note"}
    assert f"status {status}" in found["discord"][-1].found


async def test_what_is_no_discord(discord: FakeDiscord) -> None:
    [wrong] = (await ask(discord, discord_api_base=discord.url.removesuffix("/api/v10")))["discord"]
    assert wrong.status == "note"
    [wrong] = (await ask(discord, discord_api_base="http://127.0.0.1:9/api"))["discord"]
    assert (wrong.status, "could not be asked" in wrong.found) == ("note", True)
