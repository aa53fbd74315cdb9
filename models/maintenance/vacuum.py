"""Gives deleted space back on SQLite: free pages to the file system in small steps, and the WAL cut to nothing.

On Postgres autovacuum does this. Knows no tables.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from models.database import Database
from models.queries.scope import across_tenants

STEP_PAGES = 256  # a megabyte at a time: a few milliseconds under the write lock


@across_tenants("free pages belong to nobody")
async def free_pages(session: AsyncSession) -> int:
    connection = await session.connection()
    return int((await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one())


async def release_space(database: Database) -> int:
    """Returns how many pages went back to the file system. Writers get their turn between the steps."""
    if not database.is_sqlite:
        return 0
    released = 0
    async with database.read() as session:
        free = await free_pages(session)
    while free > 0:
        await database.vacuum_pages(STEP_PAGES)
        async with database.read() as session:
            left = await free_pages(session)
        if left >= free:
            break  # a file made without auto_vacuum
        released, free = released + free - left, left
    await database.truncate_wal()
    return released
