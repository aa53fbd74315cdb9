"""What the tests of the bot share: a fake engine, a client of it, and a chat service on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.settings import Settings
from models.database import Database
from tests.bot.chat.chat_kit import MakeChat
from tests.fakes.engine import FakeEngine


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as server:
        yield server


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[EngineClient]:
    async with EngineClient(engine.url) as opened:
        yield opened


@pytest.fixture
async def make_chat(database: Database, client: EngineClient) -> AsyncIterator[MakeChat]:
    made: list[ChatService] = []

    def make(**values: object) -> ChatService:
        settings = Settings(_env_file=None, persona="You are a test.", **values)
        made.append(ChatService(database=database, engine=client, settings=settings))
        return made[-1]

    yield make
    for chat in made:
        await chat.close(0)
