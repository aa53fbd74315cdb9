"""Personas: which one applies, and the limits, on every way in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bot.engine_client.client import EngineClient
from bot.errors import BotError, EmptyText, NulCharacters, PersonaTooLong, TooLong
from bot.guilds.personas import PersonaService
from bot.settings import Settings
from models.database import Database
from models.types import DialogKey
from tests.fakes.engine import FakeEngine

ANN = DialogKey(1, 10)
BOB = DialogKey(1, 11)
ELSEWHERE = DialogKey(2, 10)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(max_model_len=1000) as server:
        yield server


@pytest.fixture
async def personas(database: Database, engine: FakeEngine) -> AsyncIterator[PersonaService]:
    async with EngineClient(engine.url) as client:
        yield PersonaService(database, client, Settings(_env_file=None, persona="the default"))


async def prompt(personas: PersonaService, key: DialogKey) -> tuple[str, str]:
    shown = await personas.show(key)
    return shown.level, shown.prompt


async def test_the_narrowest_wins(personas: PersonaService):
    assert await prompt(personas, ANN) == ("default", "the default")
    await personas.set(ANN, "guild", "the guild's", name=" Captain\n Hook ", author_id=10)
    await personas.set(ANN, "member", "Ann's own")
    assert await prompt(personas, ANN) == ("member", "Ann's own")
    assert await prompt(personas, BOB) == ("guild", "the guild's")
    assert (await personas.show(BOB)).name == "Captain Hook"
    assert await prompt(personas, ELSEWHERE) == ("default", "the default")
    assert await personas.clear(ANN, "member")
    assert not await personas.clear(ANN, "member")
    assert await prompt(personas, ANN) == ("guild", "the guild's")


async def test_versions_count_up(personas: PersonaService):
    assert (await personas.set(ANN, "member", "one")).version == 1
    assert (await personas.set(ANN, "member", "two")).version == 2
    found = await personas.get(ANN, "member")
    assert found is not None
    assert found.prompt == "two"
    assert await personas.get(ANN, "guild") is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", EmptyText),
        (" \ud800 ", EmptyText),
        ("a\x00b", NulCharacters),
        ("x" * 100_000, PersonaTooLong),
        ("x" * 4001, PersonaTooLong),
        ("a b " * 300, PersonaTooLong),  # few characters, and more tokens than half the context
    ],
)
async def test_refused_with_nothing_written(personas: PersonaService, text: str, error: type[BotError]):
    await personas.set(ANN, "member", "the old one")
    with pytest.raises(error) as caught:
        await personas.set(ANN, "member", text)
    if isinstance(caught.value, TooLong):
        assert f"{caught.value.limit:,}" in caught.value.user_message
    assert await prompt(personas, ANN) == ("member", "the old one")
    assert (await personas.show(ANN)).version == 1


async def test_tokens_are_named_as_such(personas: PersonaService):
    with pytest.raises(PersonaTooLong, match=r"6\d\d tokens, and the limit is 500"):
        await personas.set(ANN, "member", "a b " * 300)


async def test_a_long_name(personas: PersonaService):
    with pytest.raises(TooLong, match="name"):
        await personas.set(ANN, "member", "text", name="n" * 81)
    assert await personas.get(ANN, "member") is None


@pytest.mark.parametrize("trouble", ["no /tokenize", "gone"])
async def test_without_a_count_characters_are_the_limit(personas: PersonaService, engine: FakeEngine, trouble: str):
    if trouble == "gone":
        await engine.stop()
    engine.tokenize = False
    await personas.set(ANN, "member", "a b " * 300)
    assert (await personas.show(ANN)).prompt == ("a b " * 300).strip()
    with pytest.raises(PersonaTooLong):
        await personas.set(ANN, "member", "x" * 4001)


async def test_stored_as_both_databases_hold_it(personas: PersonaService):
    await personas.set(ANN, "member", "  🏴‍☠️ ahoy\ud83d \u202eRTL ")
    assert (await personas.show(ANN)).prompt == "🏴‍☠️ ahoy \u202eRTL"
