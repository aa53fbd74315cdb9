"""Shows, exports and deletes what is stored about a person, and records their opt-out.

A person asks for themselves in every guild, an admin for a member in one guild; the front-ends check which. Deletion
works in small transactions and can be repeated. A deletion does not revoke an opt-out.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from bot.engine_client.prompt_cache import PromptCache
from bot.guilds.export import as_json, dialog_markdown
from models.database import Database
from models.maintenance.vacuum import release_space
from models.queries import inspection
from models.queries.deletion import purge
from models.queries.privacy import erasure, export, holdings, opt_outs
from models.queries.tenants import audit, guilds
from models.types import DIRECT_MESSAGES, DialogKey

BATCH = 200
"""Rows deleted in one transaction."""
_NO_LIMIT = 1_000_000_000
_Dialog = tuple[inspection.DialogLine, tuple[inspection.TurnLine, ...]]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is stored about a person: rows by table, and since when nothing new is stored."""

    counts: dict[str, int]
    opted_out_since: datetime | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A proof of deletion with rows by table. The audit log has the same id and counts, but no name."""

    receipt_id: str
    at: datetime
    counts: dict[str, int]


class PrivacyService:
    """The requests of data protection, each answered from the database. `guild_id` None means every guild."""

    def __init__(self, database: Database, cache: PromptCache | None = None) -> None:
        """`cache`: the engine's, if there is an engine; prompts with deleted texts are erased from it."""
        self._database = database
        self._cache = cache

    async def show(self, user_id: int, *, guild_id: int | None = None) -> Holdings:
        """Count what is stored about a person."""
        async with self._database.read() as session:
            return Holdings(
                await holdings.person_counts(session, user_id=user_id, guild_id=guild_id),
                await opt_outs.opted_out_since(session, user_id=user_id),
            )

    async def export(self, user_id: int, *, guild_id: int | None = None) -> bytes:
        """Everything stored about a person, as a ZIP: export.json for programs, Markdown files for people.

        Of a dialog that several members share, only what this person wrote, with the replies to it.
        """
        async with self._database.read() as session:
            lines = await inspection.dialog_lines(session, guild_id=guild_id, user_id=user_id, limit=_NO_LIMIT)
            dialogs = [(line, await inspection.turn_lines(session, dialog_id=line.dialog_id)) for line in lines]
            shared = [
                (line, await inspection.turn_lines(session, dialog_id=line.dialog_id, author_id=user_id))
                for line in await inspection.shared_dialog_lines(session, author_id=user_id, guild_id=guild_id)
            ]
            data: dict[str, object] = {
                "user_id": user_id,
                "exported_at": datetime.now(UTC),
                "opted_out_since": await opt_outs.opted_out_since(session, user_id=user_id),
                "dialogs": [{"dialog": line, "turns": turns} for line, turns in dialogs],
                "shared_dialogs": [{"dialog": line, "turns": turns} for line, turns in shared],
                "earlier_replies": await export.person_variants(session, user_id=user_id, guild_id=guild_id),
                "quoted_by_others": await export.person_quotes(session, user_id=user_id, guild_id=guild_id),
                "personas": await export.person_personas(session, user_id=user_id, guild_id=guild_id),
                **await export.person_memory(session, user_id=user_id, guild_id=guild_id),
                "persona_pictures": await export.person_pictures(session, user_id=user_id, guild_id=guild_id),
                **await export.person_settings(session, user_id=user_id, guild_id=guild_id),
                **await export.person_moderation(session, user_id=user_id, guild_id=guild_id),
            }
        return await asyncio.to_thread(_zip, data, [*dialogs, *shared])

    async def delete(self, user_id: int, *, guild_id: int | None = None, actor_id: int | None = None) -> Receipt:
        """Delete what is stored about a person, pending turns included. A second call returns a receipt of zeros.

        `actor_id` is the admin who asked; for a person's own request it stays None, so that no name is left.
        """
        before = await self.show(user_id, guild_id=guild_id)
        async with self._database.read() as session:
            everywhere = (DIRECT_MESSAGES, *await holdings.person_guilds(session, user_id=user_id))
        guild_ids = everywhere if guild_id is None else (guild_id,)
        while await self._delete_turns(user_id, guild_id):
            pass

        async with self._database.write() as session:
            await erasure.delete_person_rest(session, user_id=user_id, guild_id=guild_id)
        await release_space(self._database)
        await self._erase_prompts(DialogKey(each, user_id) for each in guild_ids)
        return await self._receipt("privacy.delete", before.counts, guild_id=guild_id, actor_id=actor_id)

    async def delete_guild(self, guild_id: int, *, actor_id: int | None = None) -> Receipt:
        """Delete everything of a guild now. Its members' data in other guilds is not touched."""
        counts: dict[str, int] = {"rows": 0}
        async with self._database.write() as session:
            await guilds.guild_removed(session, guild_id=guild_id, now=datetime.now(UTC))
        while True:
            async with self._database.write() as session:
                deleted = await purge.purge_guild(session, guild_id=guild_id, limit=BATCH)
            if not deleted:
                break
            counts["rows"] += deleted
        await release_space(self._database)
        await self.erase_prompts_of_guild(guild_id)
        return await self._receipt("privacy.delete_guild", counts, guild_id=None, actor_id=actor_id)

    async def erase_prompts_of_member(self, guild_id: int, user_id: int) -> None:
        """Erase what the engine keeps of a member's prompts in a guild."""
        await self._erase_prompts([DialogKey(guild_id, user_id)])

    async def erase_prompts_of_guild(self, guild_id: int) -> None:
        """Erase what the engine keeps of the guild's prompts."""
        await self._erase_prompts([DialogKey(guild_id, 0)])

    async def opt_out(self, user_id: int) -> bool:
        """Store nothing that this person writes from now on; they can still chat. False if they opted out before."""
        async with self._database.write() as session:
            return await opt_outs.opt_out(session, user_id=user_id, now=datetime.now(UTC))

    async def opt_in(self, user_id: int) -> bool:
        """Revoke an opt-out. False if there was none."""
        async with self._database.write() as session:
            return await opt_outs.opt_in(session, user_id=user_id)

    async def _erase_prompts(self, keys: Iterable[DialogKey]) -> None:
        if self._cache is not None:
            await self._cache.erase(keys)

    async def _delete_turns(self, user_id: int, guild_id: int | None) -> int:
        async with self._database.write() as session:
            return await erasure.delete_person_turns(session, user_id=user_id, guild_id=guild_id, limit=BATCH)

    async def _receipt(
        self, action: str, counts: dict[str, int], *, guild_id: int | None, actor_id: int | None
    ) -> Receipt:
        receipt = Receipt(secrets.token_hex(6), datetime.now(UTC), counts)
        async with self._database.write() as session:
            await audit.record_receipt(
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
