"""Conversations and history without Discord: names, bounds, encryption, two changes at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from sqlalchemy.ext.asyncio import AsyncSession

from bot.chat import history
from bot.chat.conversations import MAX_NAME, clean_title
from bot.chat.history import HistoryReader
from bot.errors import BotError
from models import queries
from models.database import Database
from models.queries.dialogs.conversations import (
    MAX_CONVERSATIONS,
    conversations,
    delete_conversation,
    new_conversation,
    switch_conversation,
)
from models.types import DialogKey
from tests.bot.stored_turns import add_turn

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)


async def talk(database: Database, *texts: str, key: DialogKey = KEY) -> None:
    async with database.write() as session:
        for text in texts:
            await add_turn(session, key, NOW, text)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("  Travel\t to\nRome ", "Travel to Rome"),
        ("a\u202eb\u200bc", "abc"),
        ("👩\u200d🚀 plans", "👩\u200d🚀 plans"),
        ("x" * MAX_NAME, "x" * MAX_NAME),
    ],
)
def test_a_name_is_one_line_without_control_characters(given: str, stored: str) -> None:
    assert clean_title(given) == stored


@pytest.mark.parametrize("name", ["", " \n", "\u200b", "x" * (MAX_NAME + 1), "a\x00b"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BotError):
        clean_title(name)


async def test_names_are_sealed_and_searched_text_is_found(database_url: str) -> None:
    database = Database(database_url, encryption_keys=(Fernet.generate_key().decode(),))
    try:
        async with database.write() as session:
            await new_conversation(session, key=KEY, name="Secret name", now=NOW)
        await talk(database, "A NEEDLE in the hay", "hay")
        async with database.read() as session:
            connection = await session.connection()
            [name] = (await connection.exec_driver_sql("SELECT name FROM dialogs")).scalars()
            [known] = await conversations(session, key=KEY)
        assert "Secret" not in name
        assert known.name == "Secret name"
        found = await HistoryReader(database).search(KEY, "needle", before=None, limit=9)
        assert [each.user for each in found.exchanges] == ["A NEEDLE in the hay"]
    finally:
        await database.close()


async def test_a_search_stops_at_its_bound_and_goes_on_from_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SEARCHED", 20)
    monkeypatch.setattr(history, "BATCH", 10)
    await talk(database, "needle", *("hay" for _ in range(25)))
    reader = HistoryReader(database)
    found = await reader.search(KEY, "needle", before=None, limit=9)
    assert (found.exchanges, found.gave_up) == ((), True)
    found = await reader.search(KEY, "needle", before=found.older_from, limit=9)
    assert [each.user for each in found.exchanges] == ["needle"]
    assert (found.gave_up, found.older_from) == (False, None)


async def test_nobody_else_finds_it(database: Database) -> None:
    await talk(database, "needle")
    await talk(database, "needle of another channel", key=DialogKey(100, 8, 5, shared=True))
    reader = HistoryReader(database)
    others = (DialogKey(100, 8), DialogKey(101, 7), DialogKey(0, 7), DialogKey(100, 8, 6, shared=True))
    for key in others:
        assert (await reader.search(key, "needle", before=None, limit=9)).exchanges == ()
    async with database.read() as session:
        [line] = await conversations(session, key=KEY)
    for key in others:
        assert await reader.stretch(key, dialog_id=line.dialog_id) is None
        async with database.write() as session:
            assert await switch_conversation(session, key=key, dialog_id=line.dialog_id, now=NOW) == "gone"
            assert await delete_conversation(session, key=key, dialog_id=line.dialog_id) == "gone"


async def test_changes_at_once_leave_one_conversation_in_use(database: Database) -> None:
    await talk(database, "first")

    async def change(number: int) -> str:
        now = NOW + timedelta(seconds=number)
        known = await HistoryReader(database).stretch(KEY)
        assert known is not None

        async def begin(session: AsyncSession) -> str:
            return await new_conversation(session, key=KEY, name=f"n{number}", now=now)

        async def back(session: AsyncSession) -> str:
            return await switch_conversation(session, key=KEY, dialog_id=known.dialog.dialog_id, now=now)

        outcome = await database.run(begin if number % 2 else back)
        await database.run(lambda session: add_turn(session, KEY, now, f"said {number}"))
        return outcome

    outcomes = Counter(await asyncio.gather(*(change(number) for number in range(16))))
    assert outcomes["done"] >= 8
    async with database.read() as session:
        known = await conversations(session, key=KEY)
    assert Counter(each.in_use for each in known) == {True: 1, False: 8}
    assert sum(each.num_pairs for each in known) == 17


async def test_no_more_than_the_limit_are_kept(database: Database) -> None:
    for number in range(MAX_CONVERSATIONS + 1):
        async with database.write() as session:
            outcome = await new_conversation(session, key=KEY, name=f"n{number}", now=NOW)
        assert outcome == ("done" if number < MAX_CONVERSATIONS else "full")


async def test_a_reset_repeated_after_a_lost_connection_gives_the_same_answer(database: Database) -> None:
    async with database.write() as session:
        await new_conversation(session, key=KEY, name="Travel", now=NOW)
    await talk(database, "one", "two")
    for attempt in (1, 2):
        async with database.write() as session:
            session.info["attempt"] = attempt
            assert await queries.end_dialog(session, key=KEY, now=NOW) == 2
    async with database.read() as session:
        assert [(each.name, each.num_pairs) for each in await conversations(session, key=KEY)] == [("Travel", 0)]
