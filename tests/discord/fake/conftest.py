"""The strict fake itself, a guild and a member of it, and clients: discord.py's and a plain one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.discord.fake.fake_client import RawClient, RecordingClient, connected
from tests.fakes.discord.server import FakeDiscord, Guild, User


@pytest.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord() as fake:
        yield fake


@pytest.fixture
async def raw(fake: FakeDiscord) -> AsyncIterator[RawClient]:
    async with aiohttp.ClientSession() as http:
        yield RawClient(fake, http)


@pytest.fixture
def ann(fake: FakeDiscord) -> User:
    return fake.user("ann")


@pytest.fixture
def guild(fake: FakeDiscord) -> Guild:
    return fake.guild("Alpha")


@pytest.fixture
async def client(fake: FakeDiscord, guild: Guild, ann: User) -> AsyncIterator[RecordingClient]:
    async with connected(fake) as client:
        yield client
