"""Returns the space of deleted rows to the file system on SQLite: incremental vacuum, then a truncated WAL.

Postgres has autovacuum for this. Knows no tables.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from models.database import Database
from models.queries.scope import cross_tenant

PAGES_PER_STEP = 256  # 1 MiB of 4 KiB pages: a few milliseconds under the write lock


@cross_tenant("free pages belong to no tenant")
async def free_pages(session: AsyncSession) -> int:
    """Return the number of unused pages in the SQLite file."""
    connection = await session.connection()
    return int((await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one())


async def release_space(database: Database) -> int:
    """Vacuum in steps, so that chats can write between them; return the number of pages that were released."""
    if not database.is_sqlite:
        return 0
    released = 0
    async with database.read() as session:
        free = await free_pages(session)
    while free > 0:
        await database.vacuum_pages(PAGES_PER_STEP)
        async with database.read() as session:
            left = await free_pages(session)
        if left >= free:
            break  # the file was created without auto_vacuum
        released, free = released + free - left, left
    await database.truncate_wal()
    return released
