"""Personas: named system prompts, one for a guild, a channel or a member of a guild.

Checks and stores them, for every front-end alike. Who may set which one is decided by the front-ends: this module knows
no permissions.
"""

from __future__ import annotations

from datetime import UTC, datetime

from bot.engine_client.client import EngineClient
from bot.engine_client.messages import Message
from bot.errors import EmptyText, EngineUnavailable, NulCharacters, PersonaTooLong, TooLong
from bot.settings import Settings
from bot.storage import translate_database_errors
from bot.text import clean_text, has_nul
from models import queries
from models.database import Database
from models.types import DialogKey, PersonaText, PersonaVersionInfo, StoredLevel

MAX_NAME_CHARS = 80


class PersonaService:
    """The personas of every guild. Each method raises DatabaseUnavailable if the database cannot be used."""

    def __init__(self, database: Database, engine: EngineClient, settings: Settings) -> None:
        self._database = database
        self._engine = engine
        self._settings = settings

    async def show(self, key: DialogKey) -> PersonaText:
        """The persona that applies: the member's own, else the channel's, else the guild's, else the default."""
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.effective_persona(session, key=key)
        return found or PersonaText(level="default", name="", prompt=self._settings.persona, version=0)

    async def get(self, key: DialogKey, level: StoredLevel) -> PersonaText | None:
        """The persona set at exactly this level, if any."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.get_persona(session, key=key, level=level)

    async def set(
        self, key: DialogKey, level: StoredLevel, prompt: str, name: str = "", author_id: int | None = None
    ) -> PersonaText:
        """Store a new version of the persona of this level and make it active.

        Raises EmptyText, NulCharacters, TooLong or PersonaTooLong, and then writes nothing.
        """
        if has_nul(prompt) or has_nul(name):
            raise NulCharacters("persona")
        prompt, name = clean_text(prompt), " ".join(clean_text(name).split())
        if len(name) > MAX_NAME_CHARS:
            raise TooLong("name", MAX_NAME_CHARS, len(name))
        await self._check(prompt)
        now = datetime.now(UTC)
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.set_persona(
                    session, key=key, level=level, name=name, prompt=prompt, author_id=author_id, now=now
                )
            )

    async def clear(self, key: DialogKey, level: StoredLevel) -> bool:
        """Deactivate the persona of this level; its versions stay. False if none was active."""
        with translate_database_errors():
            return await self._database.run(lambda session: queries.clear_persona(session, key=key, level=level))

    async def versions(self, key: DialogKey, level: StoredLevel) -> tuple[PersonaVersionInfo, ...]:
        """The stored versions of the persona of this level, newest first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.persona_versions(session, key=key, level=level)

    async def rollback(self, key: DialogKey, level: StoredLevel, version: int) -> PersonaText | None:
        """Restore an earlier version, also after a clear. None if it is no longer stored."""
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.rollback_persona(session, key=key, level=level, version=version)
            )

    async def _check(self, prompt: str) -> None:
        if not prompt:
            raise EmptyText("persona")
        limit = self._settings.max_persona_chars
        if len(prompt) > limit:
            raise PersonaTooLong(limit, len(prompt))
        try:
            # Many chat formats cannot encode a prompt without a user message.
            dialog = [Message(role="system", content=prompt), Message(role="user", content="Hi")]
            counted = await self._engine.count(dialog)
        except EngineUnavailable:
            return  # the limit in characters was checked, and the first message will check that it fits
        if counted is None:
            return
        half = min(counted.context_length, self._settings.max_seq_len or counted.context_length) // 2
        if counted.count > half:
            raise PersonaTooLong(half, counted.count, "tokens")
