"""Turns in the database: written past the chat service for set-ups, read past the bot for assertions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models import queries
from models.database import Database
from models.types import DialogKey, TurnResult


def turn_result(reply: str = "ho") -> TurnResult:
    """A result of 3 prompt tokens and 2 completion tokens."""
    return TurnResult(reply, 3, 2, "stop", 1, 2)


async def add_turn(
    session: AsyncSession,
    key: DialogKey,
    at: datetime,
    text: str = "hi",
    reply: str | None = "ho",
    interaction_id: int | None = None,
) -> int:
    """Store one turn and return its id; without a reply it stays pending."""
    turn = await queries.begin_turn(session, key=key, text=text, limit=0, interaction_id=interaction_id, now=at)
    if reply is not None:
        result = turn_result(reply)
        assert await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=result, now=at)
    return turn.turn_id


@dataclass(frozen=True)
class StoredTurn:
    status: str
    user: str
    reply: str | None
    error_id: str | None
    finish_reason: str | None


async def turns(database: Database) -> list[StoredTurn]:
    """Every turn of every dialog, oldest first."""
    async with database.read() as session:
        rows = await session.execute(
            text("SELECT status, user_text, reply, error_id, finish_reason FROM turns ORDER BY id")
        )
        return [StoredTurn(*row) for row in rows]


async def statuses(database: Database) -> list[str]:
    """The status of every turn, oldest first."""
    return [turn.status for turn in await turns(database)]
