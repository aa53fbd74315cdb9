"""What someone wrote and another asked about: shown, exported and deleted for its author; not stored against them."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import UTC, datetime

from sqlalchemy import func, select

from bot.guilds.privacy import PrivacyService
from models import queries
from models.database import Database
from models.queries.privacy.opt_outs import opt_out
from models.tables import Turn, TurnFile
from models.types import DialogKey, StoredFile
from tests.bot.stored_turns import turn_result

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ANNA, BEN = 7, 8


async def ask_about_ben(database: Database, guild: int) -> int:
    """Anna asks about a message of Ben, which has a file, and sends a file of her own."""
    key = DialogKey(guild, ANNA)
    pieces = (
        StoredFile("Ben", f"Ben's words in {guild}", kind="quote", author_id=BEN),
        StoredFile("ben.txt", "Ben's file", kind="quoted file", author_id=BEN),
        StoredFile("anna.txt", "Anna's file"),
    )
    async with database.write() as session:
        turn = await queries.begin_turn(session, key=key, text="What?", limit=10, files=pieces, now=NOW)
        assert turn.files == pieces  # this reply may use all of it
        await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=turn_result("That."), now=NOW)
    return turn.turn_id


async def stored_names(database: Database) -> list[str]:
    async with database.read() as session:
        return sorted(await session.scalars(select(TurnFile.name)))


async def history_files(database: Database, guild: int) -> list[StoredFile]:
    async with database.read() as session:
        pairs = await queries.history(session, key=DialogKey(guild, ANNA), limit=10)
    return [file for pair in pairs for file in pair.files]


async def test_the_author_of_a_quoted_message_sees_and_deletes_it(database: Database) -> None:
    for guild in (100, 101):
        await ask_about_ben(database, guild)
    service = PrivacyService(database)
    assert (await service.show(BEN)).counts["turn_files"] == 4
    assert (await service.show(BEN, guild_id=100)).counts["turn_files"] == 2
    with zipfile.ZipFile(io.BytesIO(await service.export(BEN))) as archive:
        data = json.loads(archive.read("export.json"))
    assert [each["content"] for each in data["quoted_by_others"]] == [
        "Ben's words in 100", "Ben's file", "Ben's words in 101", "Ben's file",
    ]  # fmt: skip
    assert "What?" not in json.dumps(data)  # who asked, and what, is not Ben's
    await service.delete(BEN, guild_id=100)
    assert [file.name for file in await history_files(database, 100)] == ["anna.txt"]
    assert len(await history_files(database, 101)) == 3
    assert (await service.delete(BEN)).counts["turn_files"] == 2
    assert await stored_names(database) == ["anna.txt", "anna.txt"]
    async with database.read() as session:
        assert await session.scalar(select(func.count(Turn.id))) == 2  # Anna's turns are hers


async def test_later_turns_know_what_is_quoted_and_by_whom(database: Database) -> None:
    await ask_about_ben(database, 100)
    kinds = [(file.kind, file.author_id) for file in await history_files(database, 100)]
    assert kinds == [("quote", BEN), ("quoted file", BEN), ("file", None)]


async def test_of_someone_who_opted_out_nothing_is_stored(database: Database) -> None:
    async with database.write() as session:
        await opt_out(session, user_id=BEN, now=NOW)
    await ask_about_ben(database, 100)
    assert await stored_names(database) == ["anna.txt"]


async def test_an_edited_question_keeps_what_it_is_about(database: Database) -> None:
    turn_id = await ask_about_ben(database, 100)
    key = DialogKey(100, ANNA)
    async with database.write() as session:
        again = await queries.begin_turn(session, key=key, text="Why?", limit=10, replaces=turn_id, now=NOW)
        assert [file.name for file in again.files] == ["Ben", "ben.txt", "anna.txt"]
        await queries.finish_turn(session, key=key, turn_id=again.turn_id, result=turn_result("So."), now=NOW)
    assert [file.author_id for file in await history_files(database, 100)] == [BEN, BEN, None]


async def test_the_asker_deletes_all_of_it(database: Database) -> None:
    await ask_about_ben(database, 100)
    await PrivacyService(database).delete(ANNA)
    assert await stored_names(database) == []
