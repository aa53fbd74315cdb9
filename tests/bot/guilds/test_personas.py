"""Personas: which one applies, and the limits, on every way in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bot.engine_client.client import EngineClient
from bot.errors import BotError, EmptyText, NulCharacters, PersonaTooLong, TooLong, TooManyPersonas
from bot.guilds.persona_checks import tags_of
from bot.guilds.persona_library import MAX_OWN_PERSONAS
from bot.guilds.personas import PersonaService
from bot.settings import Settings
from models import queries
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


async def test_a_library_is_bounded_and_its_entries_still_change(personas: PersonaService):
    for number in range(MAX_OWN_PERSONAS):
        await personas.library.create(ANN, f"Name {number}", "text", own=True, actor_id=10)
    for attempt in (
        personas.library.create(ANN, "One more", "text", own=True, actor_id=10),
        personas.set(ANN, "member", "text", name="One more", author_id=10),
    ):
        with pytest.raises(TooManyPersonas, match="room for 20"):
            await attempt
    assert (await personas.set(ANN, "member", "another text", name="name 0")).version == 2
    await personas.library.create(BOB, "One more", "text", own=True, actor_id=11)
    await personas.library.create(ANN, "One more", "text", own=False, actor_id=10)


async def test_how_much_of_the_context_it_takes(personas: PersonaService):
    saved = await personas.set(ANN, "guild", "a b " * 100, author_id=10)
    assert saved.size is not None
    assert (saved.size.context, saved.size.percent) == (1000, round(saved.size.tokens / 10))
    assert 200 < saved.size.tokens < 300


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("  Jack \n Sparrow ", "Jack Sparrow"),
        ("\u202egnirtS\u202c", "gnirtS"),
        ("a\x07b\x1b[0m", "a b [0m"),
        ("\N{FAMILY}" * 32, "\N{FAMILY}" * 32),
        ("@everyone <@1>", "@everyone <@1>"),
    ],
)
async def test_names_are_one_line(personas: PersonaService, name: str, stored: str):
    entry, _ = await personas.library.create(ANN, name, "text", own=True, actor_id=10)
    assert entry.name == stored


@pytest.mark.parametrize("name", ["", "  ", "\u200b\u2060", "\u202e", "x" * 81, "a\x00"])
async def test_names_that_are_none(personas: PersonaService, name: str):
    with pytest.raises((EmptyText, TooLong, NulCharacters)):
        await personas.library.create(ANN, name, "text", own=True, actor_id=10)
    assert (await personas.library.page(ANN, own=True)).entries == ()


def test_tags() -> None:
    assert tags_of(" #Sea, fun;sea\n, ,\u200b") == ("Sea", "fun")
    with pytest.raises(BotError, match="10 tags"):
        tags_of(",".join(map(str, range(11))))
    with pytest.raises(TooLong, match="tag"):
        tags_of("x" * 31)


async def test_only_what_is_the_guilds_is_in_its_audit_log(personas: PersonaService, database: Database):
    for own in (True, False):
        entry, _ = await personas.library.create(ANN, "Marker", "marker text", own=own, actor_id=10)
        at = {"own": own, "actor_id": 10}
        await personas.library.edit(ANN, entry.persona_id, "another marker", **at)
        await personas.library.rename(ANN, entry.persona_id, "Marker 2", **at)
        await personas.library.tag(ANN, entry.persona_id, "marker", **at)
        await personas.library.rollback(ANN, entry.persona_id, 1, **at)
        await personas.assign(ANN, "member" if own else "guild", entry.persona_id, actor_id=10)
        await personas.clear(ANN, "member" if own else "guild", actor_id=10)
        await personas.library.delete(ANN, entry.persona_id, **at)
    await personas.begin_afresh(1, {5}, actor_id=10)
    async with database.read() as session:
        log = await queries.audit_log(session, key=ANN, limit=99)
    words = ["create", "edit", "rename", "tags", "rollback", "set", "clear", "delete", "begin_afresh"]
    assert [each.action for each in reversed(log)] == [f"persona.{word}" for word in words]
    assert all(each.actor_id == 10 for each in log)
    assert "arker" not in str(log)
