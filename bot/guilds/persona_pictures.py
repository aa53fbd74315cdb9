"""The pictures of personas in the libraries of guilds and members. Knows no files of Discord and no permissions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from bot.guilds.persona_library import PersonaGone, audit
from bot.storage import translate_database_errors
from models.database import Database, Session
from models.queries.tenants.persona_pictures import picture_of, remove_picture, set_picture
from models.types import DialogKey


class PersonaPictures:
    """Each method raises DatabaseUnavailable. `on_change`: called after a picture of a guild's persona changed."""

    def __init__(self, database: Database, on_change: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._on_change = on_change

    async def get(self, key: DialogKey, persona_id: int, *, own: bool) -> bytes | None:
        """The picture of an entry, a PNG, if it has one."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await picture_of(session, key=key, own=own, persona_id=persona_id)

    async def set(self, key: DialogKey, persona_id: int, png: bytes, *, own: bool, actor_id: int | None) -> None:
        """Give an entry this picture. Raises PersonaGone."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool:
            stored = await set_picture(session, key=key, own=own, persona_id=persona_id, png=png, now=now)
            if stored:
                await audit(session, key, own, "persona.picture", actor_id, now, persona=persona_id)
            return stored

        with translate_database_errors():
            if not await self._database.run(store):
                raise PersonaGone()
        self._on_change()

    async def remove(self, key: DialogKey, persona_id: int, *, own: bool, actor_id: int | None) -> bool:
        """Take the picture of an entry away. False if it has none."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool:
            removed = await remove_picture(session, key=key, own=own, persona_id=persona_id)
            if removed:
                await audit(session, key, own, "persona.picture.remove", actor_id, now, persona=persona_id)
            return removed

        with translate_database_errors():
            removed = await self._database.run(store)
        self._on_change()
        return removed
