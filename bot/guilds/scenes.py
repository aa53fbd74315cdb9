"""The scenes of guilds: which characters answer together in a channel or thread. Knows no permissions."""

from __future__ import annotations

from datetime import UTC, datetime

from bot.errors import BotError
from bot.guilds.persona_library import PersonaGone, audit
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from models.database import Database, Session
from models.queries.tenants.scenes import (
    add_character,
    remove_character,
    scene_of,
    scenes_of_persona,
    set_scene_order,
)
from models.types import DialogKey, PersonaScope, SceneInfo, SceneOrder

MAX_CHARACTERS = 5


class SceneIsFull(BotError):
    """MAX_CHARACTERS others play there."""

    def __init__(self) -> None:
        text = _("A scene has room for {number} characters. `/scene remove` makes some.")
        super().__init__(text.format(number=MAX_CHARACTERS))


class Scenes:
    """The scenes of every guild. Each method raises DatabaseUnavailable. Changes are in the guild's audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: DialogKey, scope: PersonaScope) -> SceneInfo | None:
        """The scene in which a message of this place is answered."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await scene_of(session, key=key, scope=scope)

    async def of_persona(self, key: DialogKey, persona_id: int) -> dict[int, int]:
        """The places of the guild in whose scenes a persona plays, with the number of others there."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await scenes_of_persona(session, key=key, persona_id=persona_id)

    async def add(self, key: DialogKey, place_id: int, persona_id: int, *, actor_id: int) -> None:
        """Let a persona of the guild play in a place. Raises PersonaGone or SceneIsFull."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool | None:
            added = await add_character(
                session, key=key, place_id=place_id, persona_id=persona_id, limit=MAX_CHARACTERS, now=now
            )
            if added:
                await audit(session, key, False, "scene.add", actor_id, now, persona=persona_id, place=place_id)
            return added

        with translate_database_errors():
            added = await self._database.run(store)
        if added is None:
            raise PersonaGone()
        if not added:
            raise SceneIsFull()

    async def remove(self, key: DialogKey, place_id: int, persona_id: int, *, actor_id: int) -> bool:
        """Take a persona out of the scene of a place. False if it does not play there."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool:
            removed = await remove_character(session, key=key, place_id=place_id, persona_id=persona_id)
            if removed:
                await audit(session, key, False, "scene.remove", actor_id, now, persona=persona_id, place=place_id)
            return removed

        with translate_database_errors():
            return await self._database.run(store)

    async def speak(self, key: DialogKey, place_id: int, order: SceneOrder, *, actor_id: int) -> bool:
        """Choose who speaks if a message names no character. False if no scene is there."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool:
            changed = await set_scene_order(session, key=key, place_id=place_id, speak=order)
            if changed:
                await audit(session, key, False, "scene.speak", actor_id, now, speak=order, place=place_id)
            return changed

        with translate_database_errors():
            return await self._database.run(store)
