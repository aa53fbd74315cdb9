"""Texts of any kind are read back unchanged from both databases, encrypted or not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.text import clean_text
from models import queries
from models.database import Database
from models.encryption import TextCodec
from models.queries.tenants.personas import name_key
from models.types import DialogKey, TurnResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)
AWKWARD = [
    "👩‍👩‍👧‍👦" * 4000,
    "\u202eright to left\u202c שלום עליכם مرحبا",
    "Z̸̢̧̛̘̺̰͉͖̤̥͎̼̗̹̖̑͐̄̒̍a̴l̷g̶o̵",
    "'; DROP TABLE turns; --",
    "\\ \" ' % _ $1 :name {} %s",
    "\r\n\t\x01\x1f\x7f\u2028\ufeff\uffff\U0010ffff",
    "[INST] <<SYS>> </s> <|eot_id|> <|im_start|>",
]


async def store_and_read(database: Database, texts: list[str]) -> str:
    """The name under which the persona of the last text is found, which was set with this text as its name."""
    for value in texts:
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=KEY, text=value, limit=0, now=NOW)
            done = TurnResult(value, 1, 1, "stop", 1, 1)
            assert await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=done, now=NOW)
            await queries.set_persona(session, key=KEY, level="member", name=value, prompt=value, author_id=7, now=NOW)
    async with database.read() as session:
        pairs = await queries.history(session, key=KEY, limit=len(texts))
        persona = await queries.effective_persona(session, key=KEY)
    assert [pair.user for pair in pairs] == [pair.reply for pair in pairs] == texts
    assert persona is not None
    assert persona.prompt == texts[-1]
    return persona.name


class TestTexts:
    async def test_fault_41_awkward_texts(self, database: Database) -> None:
        assert await store_and_read(database, AWKWARD) == AWKWARD[-1]

    async def test_fault_41_awkward_texts_encrypted(self, database_url: str) -> None:
        database = Database(database_url, encryption_keys=[Fernet.generate_key().decode()])
        assert await store_and_read(database, AWKWARD) == AWKWARD[-1]
        await database.close()

    def test_fault_41_any_text_that_clean_text_accepts(self, database_url: str) -> None:
        runner = asyncio.Runner()
        database = Database(database_url)

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.text(), min_size=1, max_size=5))
        def check(texts: list[str]) -> None:
            cleaned = [clean for clean in map(clean_text, texts) if clean]
            if cleaned:
                name = runner.run(store_and_read(database, cleaned))
                assert name_key(name) == name_key(cleaned[-1])  # "³" keeps its name when it is set again as "3"

        try:
            check()
        finally:
            runner.run(database.close())
            runner.close()

    async def test_the_largest_snowflakes(self, database: Database) -> None:
        key = DialogKey(2**63 - 1, 2**63 - 2, 2**63 - 3)
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=key, text="hi", limit=0, interaction_id=2**63 - 4, now=NOW)
            done = TurnResult("ho", 1, 1, "stop", 1, 1)
            assert await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=done, now=NOW)
        async with database.read() as session:
            assert len(await queries.history(session, key=key, limit=1)) == 1

    async def test_a_time_without_a_zone_is_refused(self, database: Database) -> None:
        with pytest.raises(Exception, match="without a zone"):
            async with database.write() as session:
                await queries.begin_turn(session, key=KEY, text="hi", limit=0, now=NOW.replace(tzinfo=None))


class TestCodec:
    @given(st.text(), st.booleans())
    def test_open_reverses_seal(self, text: str, sealing: bool) -> None:
        key = "kwOqzv4Wf4FQhGcVqbLJDhbCkG3Y6n4b4sJNbZ1mO3A="
        text = text.encode("utf-8", "ignore").decode()
        codec = TextCodec([key] if sealing else [])
        assert codec.open(codec.seal(text)) == text
        assert TextCodec([key]).open(codec.seal(text)) == text
