"""Stop through another process: two chat services, each with its own Database, on SQLite, Postgres and a pooler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from bot.chat import stop_requests
from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.errors import DatabaseUnavailable
from bot.guilds.privacy import PrivacyService
from bot.settings import Settings
from models.database import Database
from models.types import StopRequester
from tests.bot.chat.chat_kit import ANN, BOB, ignore, say
from tests.fakes.engine import FakeEngine
from tests.pooler import Pooler
from tests.postgres import Postgres

SETTINGS = Settings(_env_file=None)
BY_ANN = StopRequester(ANN.user_id)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_requests, "POLL_INTERVAL", 0.05)


@pytest.fixture(params=["sqlite", "postgres", "pooler"])
async def shared_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param != "pooler":
        yield str(request.getfixturevalue(f"{request.param}_url"))
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = make_url(str(request.getfixturevalue("postgres_url")))
    socket = Path(str(make_url(server.admin_url).query["host"])) / ".s.PGSQL.5432"
    async with Pooler(socket) as pooler:
        yield url.set(host="127.0.0.1", port=pooler.port, query={}).render_as_string(hide_password=False)
        assert pooler.violations == []


@pytest.fixture
async def make_process(shared_url: str, client: EngineClient) -> AsyncIterator[Callable[[], ChatService]]:
    """Each call makes what another process of the bot would have: a chat service and a Database."""
    async with AsyncExitStack() as stack:

        def make() -> ChatService:
            database = Database(shared_url)
            chat = ChatService(database=database, engine=client, settings=SETTINGS)
            stack.push_async_callback(database.close)
            stack.push_async_callback(chat.close, 0)
            return chat

        yield make


async def started(engine: FakeEngine, chat: ChatService, interaction: int) -> asyncio.Task[object]:
    """A reply to this interaction that has said "half" and hangs."""
    engine.hang("half")
    seen = asyncio.Event()

    async def on_delta(piece: str) -> None:
        seen.set()

    running = asyncio.create_task(chat.chat(ChatRequest(ANN, "talk", interaction), on_delta))
    await asyncio.wait_for(seen.wait(), 20)
    return running


@pytest.fixture
async def shared_database(shared_url: str) -> AsyncIterator[Database]:
    """The database, as a process has it that writes no replies."""
    database = Database(shared_url)
    yield database
    await database.close()


async def requests_left(database: Database) -> int:
    async with database.read() as session:
        return int((await session.execute(text("SELECT count(*) FROM stop_requests"))).scalar_one())


async def test_attack_a_click_in_another_process_stops_the_reply(
    make_process: Callable[[], ChatService], engine: FakeEngine, shared_database: Database
) -> None:
    writer, other = make_process(), make_process()
    for interaction in range(1, 13):
        running = await started(engine, writer, interaction)
        stopping = asyncio.create_task(other.stop_reply(interaction, BY_ANN))
        reply = await asyncio.wait_for(running, 20)
        assert (reply.text, reply.finish_reason, reply.remembered) == ("half", "stopped", True)
        assert await stopping
    assert await requests_left(shared_database) == 0


async def test_attack_a_click_on_a_regenerated_reply(
    make_process: Callable[[], ChatService], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = make_process(), make_process()
    await say(writer, "hello", interaction_id=1)
    engine.hang("another")
    running = asyncio.create_task(writer.regenerate(ChatRequest(ANN, "", 2), ignore))
    await asyncio.wait_for(engine.arrived(2), 20)
    with monkeypatch.context() as soon:
        soon.setattr(stop_requests, "ANSWER_TIMEOUT", 0.5)
        assert not await other.stop_reply(1, BY_ANN)  # that one has ended
    assert not running.done()
    assert await other.stop_reply(2, BY_ANN)
    assert (await asyncio.wait_for(running, 20)).finish_reason == "stopped"


async def test_attack_a_click_on_the_reply_to_a_member_who_opted_out(
    make_process: Callable[[], ChatService], engine: FakeEngine, shared_database: Database
) -> None:
    writer, other = make_process(), make_process()
    await PrivacyService(shared_database).opt_out(ANN.user_id)
    running = await started(engine, writer, 5)
    assert await other.stop_reply(5, BY_ANN)
    assert (await asyncio.wait_for(running, 20)).finish_reason == "stopped"
    assert await requests_left(shared_database) == 0


async def test_attack_too_late_is_said_and_leaves_nothing(
    make_process: Callable[[], ChatService],
    engine: FakeEngine,
    shared_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer, other = make_process(), make_process()
    await say(writer, "hello", interaction_id=1)
    at = time.monotonic()
    assert not await writer.stop_reply(1, BY_ANN)
    assert time.monotonic() - at < stop_requests.ANSWER_TIMEOUT / 2, "the process that wrote it knows at once"
    monkeypatch.setattr(stop_requests, "ANSWER_TIMEOUT", 0.5)
    assert await asyncio.gather(other.stop_reply(1, BY_ANN), other.stop_reply(2, BY_ANN)) == [False, False]
    assert time.monotonic() - at < 4 + 20
    assert await requests_left(shared_database) == 0


async def test_attack_one_click_that_reaches_every_process_counts_as_stopped_in_each(
    make_process: Callable[[], ChatService], engine: FakeEngine, shared_database: Database
) -> None:
    writer, other, third = make_process(), make_process(), make_process()
    running = await started(engine, writer, 1)
    assert await writer.stop_reply(1, BY_ANN)
    await asyncio.wait_for(running, 20)
    # Stored only when the reply has ended, and clicked twice.
    answers = await asyncio.gather(*(each.stop_reply(1, BY_ANN) for each in (other, third, other, writer)))
    assert answers == [True] * 4
    assert await requests_left(shared_database) == 0


async def test_attack_two_replies_only_the_right_one_stops(
    make_process: Callable[[], ChatService], engine: FakeEngine
) -> None:
    writer, other = make_process(), make_process()
    first = await started(engine, writer, 1)
    engine.hang("second")
    second = asyncio.create_task(writer.chat(ChatRequest(BOB, "talk", 2), ignore))
    await asyncio.wait_for(engine.arrived(2), 20)
    assert await other.stop_reply(2, StopRequester(BOB.user_id))
    assert (await asyncio.wait_for(second, 20)).finish_reason == "stopped"
    assert not first.done()
    engine.release()
    assert (await asyncio.wait_for(first, 20)).finish_reason == "stop"


async def test_attack_nobody_stops_the_reply_of_another_with_a_forged_id(
    make_process: Callable[[], ChatService],
    engine: FakeEngine,
    shared_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer, other = make_process(), make_process()
    running = await started(engine, writer, 1)
    strangers = [StopRequester(BOB.user_id), StopRequester(BOB.user_id + 2, managed_guild_id=ANN.guild_id + 1)]
    for stranger in strangers:
        with pytest.raises(stop_requests.NotTheAsker):
            await writer.stop_reply(1, stranger)
    with monkeypatch.context() as soon:
        soon.setattr(stop_requests, "ANSWER_TIMEOUT", 1.0)
        assert await asyncio.gather(*(other.stop_reply(1, each) for each in strangers)) == [False, False]
    assert not running.done()
    assert await other.stop_reply(1, StopRequester(BOB.user_id + 1, managed_guild_id=ANN.guild_id)), "an admin may"
    assert (await asyncio.wait_for(running, 20)).finish_reason == "stopped"
    assert await requests_left(shared_database) == 0


async def test_without_a_running_reply_nothing_is_asked_of_the_database(
    database: Database, client: EngineClient, engine: FakeEngine
) -> None:
    chat = ChatService(database=database, engine=client, settings=SETTINGS)
    asked: list[str] = []
    for each in database.engines:
        event.listen(each.sync_engine, "before_cursor_execute", lambda c, u, statement, *rest: asked.append(statement))
    running = await started(engine, chat, 1)
    await asyncio.sleep(0.5)
    assert any("stop_requests" in statement for statement in asked)
    engine.release()
    await running
    await asyncio.sleep(0.2)
    asked.clear()
    await asyncio.sleep(0.5)
    assert asked == []
    await chat.close(0)


async def test_attack_stop_while_the_database_is_away(
    own_postgres: Postgres, client: EngineClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.database.BACKOFF_BASE", 0.01)
    own_postgres.ensure_template()
    url = own_postgres.url(own_postgres.create_migrated())
    databases = [Database(url), Database(url)]
    writer, other = (ChatService(database=each, engine=client, settings=SETTINGS) for each in databases)
    running = await started(engine, writer, 1)
    await asyncio.to_thread(own_postgres.stop)
    with pytest.raises(DatabaseUnavailable):
        await other.stop_reply(1, BY_ANN)
    await asyncio.sleep(0.5)  # the looks fail
    await asyncio.to_thread(own_postgres.start)
    assert await asyncio.wait_for(other.stop_reply(1, BY_ANN), 10)
    assert (await asyncio.wait_for(running, 20)).finish_reason == "stopped"
    for chat, database in zip((writer, other), databases, strict=True):
        await chat.close(0)
        await database.close()
