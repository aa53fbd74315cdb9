"""The bot's own profile in a guild: what is sent, how often, and by which of two processes. On both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from bot.discord_app.rest.account_names import nickname, webhook_name
from bot.engine_client.client import EngineClient
from bot.guilds.personas import PersonaService
from bot.guilds.profiles import INTERVAL, GuildProfiles
from bot.settings import Settings
from models import queries
from models.database import Database
from models.queries.tenants.guilds import guild_removed
from models.types import DialogKey, GuildSettings, PersonaFace, ProfileProblem, WantedProfile
from tests.fakes.engine import FakeEngine

GUILD = DialogKey(1, 10)


@dataclass
class Sent:
    """What Discord was sent, and what it says next."""

    answer: ProfileProblem | None = None
    profiles: list[tuple[int, str, bytes | None]] = field(default_factory=list)

    async def __call__(self, guild_id: int, profile: WantedProfile) -> ProfileProblem | None:
        self.profiles.append((guild_id, profile.name, profile.picture))
        return self.answer


@dataclass
class Clock:
    now: datetime = datetime(2026, 11, 29, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def personas(database: Database) -> AsyncIterator[PersonaService]:
    async with FakeEngine(max_model_len=1000) as engine, EngineClient(engine.url) as client:
        yield PersonaService(database, client, Settings(_env_file=None))


async def choose(database: Database, face: PersonaFace) -> None:
    settings = GuildSettings(persona_face=face)
    now = datetime.now(UTC)
    async with database.write() as session:
        await queries.set_guild_settings(session, key=GUILD, settings=settings, actor_id=None, now=now)


async def test_changes_are_coalesced_and_taken_back(database: Database, personas: PersonaService) -> None:
    sent, clock = Sent(), Clock()
    profiles = GuildProfiles(database, clock)
    await choose(database, "name")
    await personas.set(GUILD, "guild", "You are Jack.", "Jack")
    assert await profiles.guilds() == ()
    assert await profiles.update(1, sent) == "same"
    await choose(database, "profile")
    assert await profiles.guilds() == (1,)
    assert await profiles.update(1, sent) == "done"
    assert await profiles.update(1, sent) == "same"
    assert await profiles.update(1, sent, again=True) == "same", "just now"
    entry = (await personas.show(GUILD)).persona_id
    await personas.pictures.set(GUILD, entry, b"picture", own=False, actor_id=None)
    await personas.set(GUILD, "guild", "You are Anne.", "Anne")
    await personas.set(GUILD, "member", "You are mine.", "Mine")
    clock.now += INTERVAL / 2
    assert await profiles.update(1, sent) == "later"
    await personas.library.rename(GUILD, entry, "Old Jack", own=False, actor_id=None)
    await personas.assign(GUILD, "guild", entry)
    clock.now += INTERVAL / 2
    assert await profiles.update(1, sent) == "done"
    await choose(database, "off")
    assert await profiles.guilds() == (1,)
    clock.now += INTERVAL
    assert await profiles.update(1, sent) == "done"
    assert await profiles.guilds() == ()
    assert sent.profiles == [(1, "Jack", None), (1, "Old Jack", b"picture"), (1, "", None)]
    # Somebody renamed the bot since: an admin may have the same sent again, and a guild that was left begins anew.
    await choose(database, "profile")
    for again, sent_now in ((True, "done"), (False, "same")):
        clock.now += INTERVAL
        assert await profiles.update(1, sent, again=again) == sent_now
    clock.now += INTERVAL
    assert await profiles.update(1, sent, again=True) == "done"
    async with database.write() as session:
        await guild_removed(session, guild_id=1, now=clock.now)
    assert await profiles.update(1, sent) == "done"
    assert len(sent.profiles) == 6


async def test_what_discord_refuses_waits_for_somebody_to_mend_it(database: Database, personas: PersonaService) -> None:
    sent, clock = Sent("forbidden"), Clock()
    profiles = GuildProfiles(database, clock)
    await choose(database, "profile")
    await personas.set(GUILD, "guild", "You are Jack.", "Jack")
    assert await profiles.update(1, sent) == "forbidden"
    clock.now += 2 * INTERVAL
    assert await profiles.update(1, sent) == "forbidden"
    assert await profiles.problem(1) == "forbidden"
    assert len(sent.profiles) == 1, "it is not tried again and again"
    sent.answer = None
    assert await profiles.update(1, sent, again=True) == "done"
    assert await profiles.problem(1) is None
    # Discord is away: the same is sent again, after a while, and a process that died while it sent counts as that.
    sent.answer = "slower"
    await personas.set(GUILD, "guild", "You are Anne.", "Anne")
    clock.now += INTERVAL
    assert await profiles.update(1, sent) == "later"
    assert await profiles.guilds() == (1,)
    assert await profiles.update(1, sent) == "later"
    sent.answer = None
    clock.now += INTERVAL
    assert await profiles.update(1, sent) == "done"
    assert [name for _, name, _ in sent.profiles] == ["Jack", "Jack", "Anne", "Anne"]


async def test_one_of_two_processes_sends_it(database: Database, personas: PersonaService) -> None:
    first, second, clock = Sent(), Sent(), Clock()
    await choose(database, "profile")
    await personas.set(GUILD, "guild", "You are Jack.", "Jack")

    async def meanwhile(guild_id: int, profile: WantedProfile) -> ProfileProblem | None:
        assert await GuildProfiles(database, clock).update(1, second) == "later"
        return await first(guild_id, profile)

    assert await GuildProfiles(database, clock).update(1, meanwhile) == "done"
    assert (len(first.profiles), second.profiles) == (1, [])


def test_what_a_nickname_may_be() -> None:
    assert nickname("Jack Sparrow") == "Jack Sparrow"
    assert nickname("@Discord#Clyde: x```") == "x"
    assert nickname("Everyone") is None
    assert nickname("disdiscordcord") == "dis cord"
    assert nickname("😀" * 32) == "😀" * 16
    assert nickname(" @ ") is None
    assert timedelta(minutes=1) <= INTERVAL


def test_what_the_name_of_a_webhook_may_be() -> None:
    assert webhook_name("Queen Anne") == "Queen Anne"
    assert webhook_name("  My\nDiscord \u200b@everyone #1: clyde``` ") == "My everyone 1"
    assert webhook_name("disdiscordcord") == "dis cord"
    assert webhook_name("\u3164\u2800\u200d\u202e") is None
    assert webhook_name("@here") is None
    assert webhook_name("😀" * 60) == "😀" * 40
