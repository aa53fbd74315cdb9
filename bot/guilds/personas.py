"""Personas: who the bot is, for a guild, a channel or one member in a guild.

Checks what is set, whatever entrance it comes through (command, terminal, file), and stores it. Who may set what is
decided by the front-ends: this module knows no permissions.
"""

from __future__ import annotations

from datetime import UTC, datetime

from bot.chat.prompt import Message, clean_text, has_nul
from bot.engine_client.client import EngineClient
from bot.errors import EmptyText, EngineUnavailable, NulCharacters, PersonaTooLong, TooLong
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.types import DialogKey, PersonaText, PersonaVersionInfo, StoredLevel

MAX_NAME_CHARS = 80


class PersonaService:
    def __init__(self, database: Database, engine: EngineClient, settings: Settings) -> None:
        self._database = database
        self._engine = engine
        self._settings = settings

    async def show(self, key: DialogKey) -> PersonaText:
        """The persona in force: the member's own, else the channel's, else the guild's, else the default."""
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
        """Store and put in force. Raises EmptyText, NulCharacters or PersonaTooLong; then nothing is written."""
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
        """Take the persona of this level out of force. False if none was set."""
        with translate_database_errors():
            return await self._database.run(lambda session: queries.clear_persona(session, key=key, level=level))

    async def versions(self, key: DialogKey, level: StoredLevel) -> tuple[PersonaVersionInfo, ...]:
        """What the persona of this level has been, newest first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.persona_versions(session, key=key, level=level)

    async def rollback(self, key: DialogKey, level: StoredLevel, version: int) -> PersonaText | None:
        """Put an earlier version back in force, also after a clear. None if it is not kept."""
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
            # With a message, because many chat formats know no dialog without one.
            dialog = [Message(role="system", content=prompt), Message(role="user", content="Hi")]
            counted = await self._engine.count(dialog)
        except EngineUnavailable:
            return  # characters bound it; that it also fits is seen at the first message
        if counted is None:
            return
        half = min(counted.limit, self._settings.max_seq_len or counted.limit) // 2
        if counted.count > half:
            raise PersonaTooLong(half, counted.count, "tokens")
