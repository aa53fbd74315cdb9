"""What one message asks the database: its transactions and their statements. Counts: times depend on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from bot.chat.requests import ChatRequest, PendingTurn
from bot.chat.turns.deliveries import DeliveryLog
from models.database import Database
from models.types import DialogKey, OutgoingMessage, PersonaScope, Place
from tests.bot.chat.chat_kit import ANN, MakeChat
from tests.fakes.engine import FakeEngine

CHANNEL = 5
FIRST = "Hello "
ALONE = [9, 1, 7, 3]
SHARED = [12, 1, 7, 3]
"""Statements of each transaction: begin the turn, record its message, store the reply, record that it is shown."""


@contextmanager
def transactions(database: Database) -> Iterator[list[list[str]]]:
    """The statements of each committed transaction, except looks for clicks on Stop: one serves all running replies."""
    committed: list[list[str]] = []
    running: dict[int, list[str]] = {}

    def statement(connection: Connection, cursor: Any, text: str, *rest: Any) -> None:
        if not text.startswith("BEGIN"):
            running.setdefault(id(connection), []).append(text)

    def commit(connection: Connection) -> None:
        statements = running.pop(id(connection), [])
        if not (statements and all("stop_requests" in text for text in statements)):
            committed.append(statements)

    engines = [engine.sync_engine for engine in database.engines]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", statement)
        event.listen(engine, "commit", commit)
    try:
        yield committed
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", statement)
            event.remove(engine, "commit", commit)


async def counts(make_chat: MakeChat, database: Database, key: DialogKey, author: str | None = None) -> list[int]:
    """How many statements each transaction of a dialog's third message runs."""
    chat, deliveries = make_chat(), DeliveryLog(database)
    last: list[list[str]] = []
    for number in (1, 2, 3):
        begun: list[PendingTurn] = []

        async def on_delta(piece: str, number: int = number, begun: list[PendingTurn] = begun) -> None:
            if piece.startswith(FIRST):
                await deliveries.sent(begun[0].delivery_id, 0, 100 + number)

        request = ChatRequest(
            key,
            "hi",
            interaction_id=number,
            place=Place(key.guild_id, CHANNEL, key.user_id, number, application_id=1, reply_token="token"),
            author=author,
            persona_scope=PersonaScope(0, CHANNEL, 0),
            messages=lambda text, reason, number=number: (OutgoingMessage(text, message_id=100 + number),),
            on_begun=begun.append,
        )
        with transactions(database) as committed:
            reply = await chat.chat(request, on_delta)
            await deliveries.shown(reply.delivery_id, [(0, 100 + number)], done=True)
        assert reply.delivery_id == begun[0].delivery_id != 0
        last = committed
    return [len(statements) for statements in last]


async def test_a_message_of_a_member_alone(make_chat: MakeChat, database: Database, engine: FakeEngine) -> None:
    for _ in range(3):
        engine.reply(FIRST, "there")
    assert await counts(make_chat, database, ANN) == ALONE


async def test_a_message_in_a_shared_dialog(make_chat: MakeChat, database: Database, engine: FakeEngine) -> None:
    """It also asks for the names in the dialog, for its member, and for the pair that its thread was started under."""
    for _ in range(3):
        engine.reply(FIRST, "there")
    shared = DialogKey(1, 10, CHANNEL, shared=True)
    assert await counts(make_chat, database, shared, author="Ann") == SHARED
