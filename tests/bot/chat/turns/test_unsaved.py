"""Replies that could not be stored: they stay on the screen, and are stored or ended once the database is back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from bot.chat.chat_reply import ChatReply
from bot.chat.service import ChatService
from bot.chat.turns import unsaved
from bot.engine_client.client import EngineClient
from bot.errors import DatabaseUnavailable, EngineUnavailable
from bot.settings import Settings
from models import queries
from models.database import Database
from tests.bot.chat.chat_kit import ANN, MakeChat, contents, say
from tests.bot.stored_turns import turns
from tests.fakes.engine import FakeEngine
from tests.postgres import Postgres

SETTINGS = Settings(_env_file=None)


class Outage:
    """A database that can be taken away: Postgres is stopped, and SQLite's lock is kept by somebody else."""

    def __init__(self, database: Database, postgres: Postgres | None) -> None:
        self.database = database
        self._postgres = postgres
        self._other: sqlite3.Connection | None = None

    async def begin(self) -> None:
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.stop)
        else:
            self._other = sqlite3.connect(self.database.url.removeprefix("sqlite:///"), isolation_level=None)
            self._other.execute("BEGIN IMMEDIATE")

    async def end(self) -> None:
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.start)
        elif self._other is not None:
            self._other.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def outage(request: pytest.FixtureRequest) -> AsyncIterator[Outage]:
    if request.param == "sqlite":
        server, url = None, str(request.getfixturevalue("sqlite_url"))
    else:
        server = request.getfixturevalue("own_postgres")
        server.ensure_template()
        url = server.url(server.create_migrated())
    database = Database(url, busy_timeout=0.05)
    yield Outage(database, server)
    await database.close()


async def reply_during_outage(chat: ChatService, engine: FakeEngine, outage: Outage, reply: str) -> ChatReply:
    """Say hello; the database goes away while the engine writes `reply`."""
    engine.hang(reply)
    asking = asyncio.create_task(say(chat, "hello"))
    await asyncio.wait_for(engine.arrived(1), 10)
    await outage.begin()
    engine.release()
    return await asyncio.wait_for(asking, 60)


async def test_attack_a_reply_that_could_not_be_stored_is_stored_when_the_database_is_back(
    outage: Outage, engine: FakeEngine, client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.database.BACKOFF_BASE", 0.01)
    chat = ChatService(database=outage.database, engine=client, settings=SETTINGS)
    reply = await reply_during_outage(chat, engine, outage, "a precious reply")
    assert (reply.text, reply.saved, reply.remembered) == ("a precious reply", False, False)
    with pytest.raises(DatabaseUnavailable):
        await chat.recover()
    await outage.end()
    await chat.recover()
    assert [(turn.status, turn.reply) for turn in await turns(outage.database)] == [("done", "a precious reply")]
    await say(chat, "and now?")
    assert contents(engine.requests[-1])[1:] == ["hello", "a precious reply", "and now?"]
    await chat.close(0)


async def test_attack_the_next_message_stores_it_too(
    outage: Outage, engine: FakeEngine, client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.database.BACKOFF_BASE", 0.01)
    chat = ChatService(database=outage.database, engine=client, settings=SETTINGS)
    assert not (await reply_during_outage(chat, engine, outage, "first reply")).saved
    await outage.end()
    await say(chat, "next")
    await chat.close(0)
    assert {turn.status for turn in await turns(outage.database)} == {"done"}


async def test_attack_a_turn_whose_end_could_not_be_written_is_ended_when_the_database_is_back(
    outage: Outage, engine: FakeEngine, client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.database.BACKOFF_BASE", 0.01)
    chat = ChatService(database=outage.database, engine=client, settings=SETTINGS)
    engine.hang("half")
    asking = asyncio.create_task(say(chat, "hello"))
    await asyncio.wait_for(engine.arrived(1), 10)
    await outage.begin()
    await engine.stop()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(asking, 60)
    await outage.end()
    assert [turn.status for turn in await turns(outage.database)] == ["pending"]
    await chat.recover()
    assert [turn.status for turn in await turns(outage.database)] == ["interrupted"]
    await chat.close(0)


async def test_recovery_leaves_turns_alone_whose_reply_is_being_written(
    make_chat: MakeChat, engine: FakeEngine, database: Database
) -> None:
    chat = make_chat()
    engine.hang("slow")
    asking = asyncio.create_task(say(chat, "hello"))
    await asyncio.wait_for(engine.arrived(1), 10)
    # A commit that came through although its answer was lost: nobody knows the turn.
    await database.run(
        lambda session: queries.begin_turn(session, key=ANN, text="lost", limit=10, now=datetime.now(UTC))
    )
    await chat.recover()
    assert [turn.status for turn in await turns(database)] == ["pending", "interrupted"]
    engine.release()
    assert (await asking).saved
    assert [turn.status for turn in await turns(database)] == ["done", "interrupted"]


async def test_what_is_kept_in_memory_is_bounded(database: Database) -> None:
    async def nothing(session: object) -> bool:
        return True

    kept = unsaved.UnsavedTurns(database)
    for turn_id in range(1, unsaved.MAX_TURNS + 11):
        kept.add(unsaved.UnsavedTurn(turn_id, 10, nothing))
    assert len(kept) == unsaved.MAX_TURNS
    kept.add(unsaved.UnsavedTurn(9999, unsaved.MAX_CHARS, nothing))
    assert kept.turn_ids == {9999}
    assert await kept.store() == 1


@pytest.mark.parametrize("statement", ["reply", "usage"])
async def test_case_11_any_database_error_leaves_the_reply_on_the_screen(
    database: Database, make_chat: MakeChat, engine: FakeEngine, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with database.write() as session:
        for line in _fault(database.is_sqlite, statement):
            await session.execute(text(line))
    chat = make_chat()
    engine.reply("a precious answer")
    reply = await say(chat, "my secret question")
    assert (reply.text, reply.saved, reply.remembered) == ("a precious answer", False, False)
    await chat.recover()  # it cannot be stored; its turn is ended
    assert [turn.status for turn in await turns(database)] == ["interrupted"]
    assert "precious" not in caplog.text
    assert "secret" not in caplog.text


def _fault(sqlite: bool, what: str) -> tuple[str, ...]:
    """What an operator's own constraint or a wrong migration may do: the finish transaction fails."""
    table, event = ("turns", "UPDATE OF reply") if what == "reply" else ("daily_usage", "INSERT")
    if sqlite:
        return (f"CREATE TRIGGER refuse BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END",)
    return (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = NEW; END $$",
        f"CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW "
        + ("WHEN (NEW.reply IS NOT NULL) " if what == "reply" else "")
        + "EXECUTE FUNCTION refuse()",
    )
