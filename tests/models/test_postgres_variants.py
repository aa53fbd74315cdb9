"""Postgres as it is found: other encodings (case 10), and a transaction pooler in front of it (case 11)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from models import queries
from models.database import Database
from models.errors import DatabaseUnavailable, UnsupportedEncoding
from models.maintenance.transfer import copy_database
from models.migrate import check_revision, downgrade, upgrade
from models.types import DialogKey, TurnResult
from tests.fork_server import ForkServer, Outcome
from tests.pooler import Pooler
from tests.postgres import Postgres

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
COMMANDS = (
    ("db", "upgrade"),
    ("db", "check"),
    ("db", "copy", "sqlite:///{sqlite}", "{url}"),
    ("db", "restore", "{sqlite}"),
    ("chat", "--message", "hello"),
    ("run",),
    ("doctor",),
)


async def exchange(database: Database, user: int, message: str, reply: str) -> None:
    key = DialogKey(1, user)
    turn = await database.run(
        lambda session: queries.begin_turn(session, key=key, text=message, limit=10, now=NOW), brief=True
    )
    result = TurnResult(reply, 10, 5, "stop", 1, 2)
    assert await database.run(
        lambda session: queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=result, now=NOW), brief=True
    )


@pytest.fixture
def encoded(postgres: Postgres) -> Iterator[object]:
    """Creates databases of a given encoding."""
    names = []

    def create(encoding: str) -> str:
        name = f"t_{os.urandom(8).hex()}"
        postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        names.append(name)
        return postgres.url(name)

    yield create
    for name in names:
        postgres.drop(name)


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP", "WIN1252", "KOI8R", "LATIN9"])
    def test_case_10_an_encoding_without_every_character_is_refused(
        self, encoded, encoding: str, sqlite_url: str
    ) -> None:
        url = encoded(encoding)
        for act in (upgrade, check_revision, lambda url: downgrade(url, "base")):
            with pytest.raises(UnsupportedEncoding, match=encoding):
                act(url)
        with pytest.raises(UnsupportedEncoding):
            copy_database(sqlite_url, url)

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "_".join(command[:2]).replace("--", ""))
    async def test_case_10_every_command_refuses_it_in_one_line(
        self, forks: ForkServer, encoded, command: tuple[str, ...], sqlite_url: str, tmp_path: Path
    ) -> None:
        url, sqlite = encoded("SQL_ASCII"), sqlite_url.removeprefix("sqlite:///")
        done = await guildllama(forks, tmp_path, url, *(part.format(sqlite=sqlite, url=url) for part in command))
        assert done.code == 78, done.err
        lines = [line for line in (done.out + done.err).splitlines() if "SQL_ASCII" in line]
        assert len(lines) == 1
        assert "UTF8" in lines[0]
        assert "Traceback" not in done.err
        if command[0] not in ("doctor", "run"):
            assert (done.out + done.err).strip().splitlines() == lines

    @pytest.mark.parametrize("source", ["environment", "database", "query"])
    async def test_case_10_the_session_is_utf8_whatever_else_says(
        self, encoded, postgres: Postgres, source: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = encoded("UTF8")
        if source == "environment":
            monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
        elif source == "database":
            postgres.execute(f"ALTER DATABASE {make_url(url).database} SET client_encoding TO 'LATIN1'")
        else:
            url += "&client_encoding=latin1"
        upgrade(url)
        database = Database(url)
        await exchange(database, 7, "a llama \N{LLAMA}", "5 €")
        async with database.read() as session:
            [pair] = await queries.history(session, key=DialogKey(1, 7), limit=10)
        assert (pair.user, pair.reply) == ("a llama \N{LLAMA}", "5 €")
        await database.close()


class TestPooler:
    async def test_case_11_behind_a_transaction_pooler(self, postgres: Postgres) -> None:
        name = postgres.create()
        try:
            async with Pooler(socket_of(postgres)) as pooler:
                url = f"postgresql://postgres:x@127.0.0.1:{pooler.port}/{name}?pgbouncer=true&connection_limit=1"
                await asyncio.gather(*(asyncio.to_thread(upgrade, url) for _ in range(2)))
                await asyncio.to_thread(check_revision, url)
                database = Database(url)
                for number in range(30):
                    await exchange(database, 1, f"question {number}", f"answer {number}")
                await asyncio.gather(*(exchange(database, 2 + n % 5, f"question {n}", "yes") for n in range(30)))
                async with database.read() as session:
                    pairs = await queries.history(session, key=DialogKey(1, 1), limit=100)
                assert [pair.reply for pair in pairs] == [f"answer {number}" for number in range(30)]
                await database.close()
                assert pooler.transactions > 120
                assert pooler.violations == []
        finally:
            postgres.drop(name)

    async def test_attack_prepared_statements_behind_a_pooler_say_what_is_wrong(
        self, postgres: Postgres, postgres_url: str
    ) -> None:
        name = make_url(postgres_url).database
        async with Pooler(socket_of(postgres)) as pooler:
            url = f"postgresql://postgres:x@127.0.0.1:{pooler.port}/{name}?prepare_threshold=0"
            database = Database(url)
            with pytest.raises(DatabaseUnavailable, match="prepare_threshold out of the database URL"):
                await exchange(database, 1, "my hamster Zebedee", "sings")
            await database.close()
            database = Database(f"{url}&pgbouncer=true")
            await exchange(database, 2, "my hamster Zebedee", "sings")
            await database.close()

    async def test_the_pooler_notices_session_state(self, postgres: Postgres) -> None:
        async with Pooler(socket_of(postgres)) as pooler:
            connection = await psycopg.AsyncConnection.connect(
                f"postgresql://postgres:x@127.0.0.1:{pooler.port}/postgres", autocommit=True, prepare_threshold=0
            )
            with pytest.raises(psycopg.Error, match="does not exist"):  # prepared in another session
                await connection.execute("SELECT pg_advisory_lock(%s)", [7])
            await connection.close()
            assert {violation.split()[0] for violation in pooler.violations} == {"prepared", "SELECT"}


class TestPreparedStatements:
    @pytest.mark.parametrize(
        ("option", "prepared"),
        [("", False), ("prepare_threshold=0", True), ("prepare_threshold=2", True), ("prepare_threshold=off", False)],
    )
    async def test_attack_the_url_turns_them_on(self, postgres_url: str, option: str, prepared: bool) -> None:
        url = f"{postgres_url}&{option}"
        await asyncio.to_thread(check_revision, url)  # blocking connections take the same URL
        database = Database(url)
        for number in range(5):
            await exchange(database, 1, f"question {number}", "yes")
        async with database.read() as session:
            found = await session.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
        await database.close()
        assert bool(found) is prepared

    @pytest.mark.parametrize("value", ["many", "-1", "1.5", "9999999999"])
    def test_attack_another_value_is_refused(self, value: str) -> None:
        with pytest.raises(DatabaseUnavailable, match="prepare_threshold"):
            Database(f"postgresql://user:secret@host/name?prepare_threshold={value}")


def socket_of(server: Postgres) -> Path:
    """The Unix socket that the server listens on."""
    return next(Path(str(make_url(server.admin_url).query["host"])).glob(".s.PGSQL.*[0-9]"))


async def guildllama(forks: ForkServer, folder: Path, url: str, *arguments: str) -> Outcome:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GUILDLLAMA_")}
    environment |= {
        "GUILDLLAMA_DATABASE_URL": url,
        "GUILDLLAMA_ENGINE_URL": "http://127.0.0.1:9/v1",
        "GUILDLLAMA_DISCORD_TOKEN": "aaaa.bbbb.cccc",
    }
    return await forks.run(*arguments, folder=folder, environment=environment)
