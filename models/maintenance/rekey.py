"""Seals stored text with the newest key, or opens it all: key rotation, in small transactions, while the bot runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.database import Database
from models.queries.common import codec
from models.queries.scope import across_tenants
from models.tables import Base, PersonaVersion, ReplyVariant, Turn

BATCH = 100
_SEALED: tuple[tuple[type[Base], tuple[InstrumentedAttribute[int], ...], tuple[str, ...]], ...] = (
    (Turn, (Turn.id,), ("user_text", "reply")),
    (ReplyVariant, (ReplyVariant.turn_id, ReplyVariant.position), ("reply",)),
    (PersonaVersion, (PersonaVersion.persona_id, PersonaVersion.version), ("prompt",)),
)


async def rekey(database: Database, *, plain: bool = False) -> dict[str, int]:
    """Returns how many rows of each table changed. Can be stopped and run again: what is done is skipped."""
    changed = {}
    for table, identity, names in _SEALED:
        total, after = 0, (-1,) * len(identity)
        while True:
            async with database.write() as session:
                done, last = await _batch(session, table, identity, names, after, plain)
            total += done
            if last is None:
                break
            after = last
        changed[table.__tablename__] = total
    return changed


@across_tenants("the operator changes the key of everybody's text")
async def _batch(
    session: AsyncSession,
    table: type[Base],
    identity: tuple[InstrumentedAttribute[int], ...],
    names: tuple[str, ...],
    after: tuple[int, ...],
    plain: bool,
) -> tuple[int, tuple[int, ...] | None]:
    columns = [getattr(table, name) for name in names]
    rows = (
        await session.execute(
            select(*identity, *columns).where(tuple_(*identity) > after).order_by(*identity).limit(BATCH)
        )
    ).all()
    text, done = codec(session), 0
    for row in rows:
        fresh: dict[str, Any] = {}
        for name, stored in zip(names, row[len(identity) :], strict=True):
            sealed = text.reseal(stored, plain=plain) if isinstance(stored, str) else None
            if sealed is not None:
                fresh[name] = sealed
        if fresh:
            where = [column == value for column, value in zip(identity, row, strict=False)]
            await session.execute(update(table).where(*where).values(**fresh))
            done += 1
    return done, tuple(rows[-1][: len(identity)]) if len(rows) == BATCH else None
