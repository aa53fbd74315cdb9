"""What stands in the database, read past the bot: for assertions."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from models.database import Database


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
