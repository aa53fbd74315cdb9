"""The audit log of a guild, as its admins read it: by pages, and as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot.storage import translate_database_errors
from models.database import Database
from models.queries import audit_log
from models.queries.administration.figures import persona_names
from models.types import AuditRecord, DialogKey

EXPORTED = 10_000
"""Entries that are exported at most, the newest ones."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are meant: what their action begins with, and whom they are about. Nothing: all of them."""

    actions: str = ""
    member_id: int | None = None


class AuditLog:
    """The audit logs of every guild in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        key: DialogKey,
        wanted: AuditFilter,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int,
    ) -> tuple[AuditRecord, ...]:
        """Entries of the key's guild, newest first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await audit_log(
                    session,
                    key=key,
                    actions=wanted.actions,
                    member_id=wanted.member_id,
                    before=before,
                    after=after,
                    limit=limit,
                )

    async def all(self, key: DialogKey, wanted: AuditFilter) -> tuple[AuditRecord, ...]:
        """The last EXPORTED entries of the key's guild, newest first, read in short transactions."""
        found: list[AuditRecord] = []
        while len(found) < EXPORTED:
            before = found[-1].entry_id if found else None
            page = await self.page(key, wanted, before=before, limit=_BATCH)
            found += page
            if len(page) < _BATCH:
                break
        return tuple(found[:EXPORTED])

    async def persona_names(self, key: DialogKey, persona_ids: Sequence[int]) -> Mapping[int, str]:
        """How the personas of the key's guild are called now; those that are gone are missing."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await persona_names(session, key=key, persona_ids=persona_ids)
