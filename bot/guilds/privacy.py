"""What a person may ask of us: show, export, delete, opt out. For themselves everywhere, or in one guild by its admin.

Deleting works in small transactions and can be repeated; the receipt counts what went, by table. An opt-out outlives a
deletion, since it is a wish about the future. Knows no Discord: who may ask is the front-end's business.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime

from bot.guilds.export import dialog_markdown
from bot.terminal.output import as_json
from models.database import Database
from models.maintenance.vacuum import release_space
from models.queries import guilds, inspection, privacy, purge, settings

BATCH = 200
_ALL = 1_000_000_000
_Dialog = tuple[inspection.DialogLine, tuple[inspection.TurnLine, ...]]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is stored about a person: rows by table, and whether anything new may be."""

    counts: dict[str, int]
    opted_out_since: datetime | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of a deletion, for the person to keep; the audit log has the same id and counts, and no name."""

    receipt_id: str
    at: datetime
    counts: dict[str, int]


class PrivacyService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self, user_id: int, *, guild_id: int | None = None) -> Holdings:
        async with self._database.read() as session:
            return Holdings(
                await privacy.person_counts(session, user_id=user_id, guild_id=guild_id),
                await privacy.opted_out_since(session, user_id=user_id),
            )

    async def export(self, user_id: int, *, guild_id: int | None = None) -> bytes:
        """A zip with everything: export.json for programs, and one Markdown file a dialog for people."""
        async with self._database.read() as session:
            lines = await inspection.dialog_lines(session, guild_id=guild_id, user_id=user_id, limit=_ALL)
            dialogs = [(line, await inspection.turn_lines(session, dialog_id=line.dialog_id)) for line in lines]
            data: dict[str, object] = {
                "user_id": user_id,
                "exported_at": datetime.now(UTC),
                "opted_out_since": await privacy.opted_out_since(session, user_id=user_id),
                "dialogs": [{"dialog": line, "turns": turns} for line, turns in dialogs],
                "earlier_replies": await privacy.person_variants(session, user_id=user_id, guild_id=guild_id),
                "personas": await privacy.person_personas(session, user_id=user_id, guild_id=guild_id),
                **await privacy.person_settings(session, user_id=user_id, guild_id=guild_id),
            }
        return await asyncio.to_thread(_zip, data, dialogs)

    async def delete(self, user_id: int, *, guild_id: int | None = None, actor_id: int | None = None) -> Receipt:
        """Deletes what is stored about a person, running turns included. A second call finds nothing and says so.

        `actor_id` is the admin who asked on behalf of a guild; a person's own request leaves no name behind.
        """
        before = await self.show(user_id, guild_id=guild_id)
        while await self._delete_turns(user_id, guild_id):
            pass

        async with self._database.write() as session:
            await privacy.delete_person_rest(session, user_id=user_id, guild_id=guild_id)
        await release_space(self._database)
        return await self._receipt("privacy.delete", before.counts, guild_id=guild_id, actor_id=actor_id)

    async def delete_guild(self, guild_id: int, *, actor_id: int | None = None) -> Receipt:
        """Deletes everything of a guild at once, as its admin asked; its members' other guilds are untouched."""
        counts: dict[str, int] = {"rows": 0}
        async with self._database.write() as session:
            await guilds.guild_removed(session, guild_id=guild_id, now=datetime.now(UTC))
        while True:
            async with self._database.write() as session:
                gone = await purge.purge_guild(session, guild_id=guild_id, limit=BATCH)
            if not gone:
                break
            counts["rows"] += gone
        await release_space(self._database)
        return await self._receipt("privacy.delete_guild", counts, guild_id=None, actor_id=actor_id)

    async def opt_out(self, user_id: int) -> bool:
        """Chat goes on without memory: nothing they write is stored any more. False if it was so already."""
        async with self._database.write() as session:
            return await privacy.opt_out(session, user_id=user_id, now=datetime.now(UTC))

    async def opt_in(self, user_id: int) -> bool:
        async with self._database.write() as session:
            return await privacy.opt_in(session, user_id=user_id)

    async def _delete_turns(self, user_id: int, guild_id: int | None) -> int:
        async with self._database.write() as session:
            return await privacy.delete_person_turns(session, user_id=user_id, guild_id=guild_id, limit=BATCH)

    async def _receipt(
        self, action: str, counts: dict[str, int], *, guild_id: int | None, actor_id: int | None
    ) -> Receipt:
        receipt = Receipt(secrets.token_hex(6), datetime.now(UTC), counts)
        async with self._database.write() as session:
            await settings.record_receipt(
                session,
                guild_id=guild_id,
                actor_id=actor_id,
                action=action,
                details={"receipt": receipt.receipt_id, **counts},
                now=receipt.at,
            )
        return receipt


def _zip(data: dict[str, object], dialogs: list[_Dialog]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("export.json", as_json(data))
        for line, turns in dialogs:
            archive.writestr(f"dialogs/{line.dialog_id}.md", dialog_markdown(line, turns))
    return buffer.getvalue()
