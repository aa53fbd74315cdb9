"""Who answers: which persona is set for a guild, its places and its members, and the one that applies to a message.

Stores them for every front-end alike; the libraries they come from are in persona_library.py. Who may set which one is
decided by the front-ends: this module knows no permissions. A change of what is the guild's is in its audit log; what a
member keeps for themselves is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from bot.engine_client.engine import Engine
from bot.engine_client.model_list import ModelList
from bot.guilds.persona_cards import PersonaCards
from bot.guilds.persona_checks import PersonaLimits, PersonaSize, clean_name
from bot.guilds.persona_library import MAX_GUILD_PERSONAS, MAX_OWN_PERSONAS, PersonaLibrary, audit, library_errors
from bot.guilds.persona_pictures import PersonaPictures
from bot.guilds.profiles import GuildProfiles
from bot.guilds.scenes import Scenes
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import queries
from models.database import Database, Session
from models.queries.dialogs.resets import end_dialogs_of_place, place_has_pairs
from models.types import (
    NO_PLACE,
    DialogKey,
    PersonaInfo,
    PersonaLevelInfo,
    PersonaScope,
    PersonaText,
    ResetCounts,
    StoredLevel,
)


@dataclass(frozen=True, slots=True)
class SavedPersona:
    """A persona that was stored, and how much of the context it takes; None if the engine cannot count now."""

    persona: PersonaText
    size: PersonaSize | None

    @property
    def version(self) -> int:
        """The number of its new version."""
        return self.persona.version


class PersonaService:
    """The personas of every guild. Each method raises DatabaseUnavailable if the database cannot be used."""

    def __init__(self, database: Database, engine: Engine | ModelList, settings: Settings) -> None:
        """`engine`: the only model, or all that guilds may choose."""
        self._database = database
        self._settings = settings
        self._models = ModelList.of(engine)
        self.limits = PersonaLimits(self._models, settings, self._chosen_model)
        self.changed = asyncio.Event()
        """Set when a guild's personas change, or where they answer: wakes who shows them."""
        self.library = PersonaLibrary(database, self.limits, self.changed.set)
        self.cards = PersonaCards(database, self.limits, self.library, self.changed.set)
        self.pictures = PersonaPictures(database, self.changed.set)
        self.profiles = GuildProfiles(database)
        self.scenes = Scenes(database)

    async def _chosen_model(self, key: DialogKey) -> str | None:
        if len(self._models.engines) == 1:
            return None
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.chosen_model(session, key=key)

    async def show(self, key: DialogKey, scope: PersonaScope = NO_PLACE) -> PersonaText:
        """The persona that answers a message of this key there: the narrowest that is set, else the default."""
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.effective_persona(session, key=key, scope=scope)
        return found or PersonaText(level="default", name="", prompt=self._settings.persona, version=0)

    async def levels(self, key: DialogKey, scope: PersonaScope = NO_PLACE) -> tuple[PersonaLevelInfo, ...]:
        """Every level at which a persona is set there, the narrowest first; the member's own too where it is barred."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.persona_levels(session, key=key, scope=scope)

    async def get(self, key: DialogKey, level: StoredLevel, place_id: int = 0) -> PersonaText | None:
        """The persona set at exactly this level, if any."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.assigned_persona(session, key=key, level=level, place_id=place_id)

    async def set(
        self,
        key: DialogKey,
        level: StoredLevel,
        prompt: str,
        name: str = "",
        author_id: int | None = None,
        *,
        place_id: int = 0,
    ) -> SavedPersona:
        """Store a text in the library, as the entry of this name or the one that is set there, and set it there.

        Raises EmptyText, NulCharacters, TooLong, PersonaTooLong or TooManyPersonas, and then writes nothing.
        """
        name, own = clean_name(name), level == "member"
        prompt, size = await self.limits.check(key, prompt)
        now = datetime.now(UTC)

        async def store(session: Session) -> PersonaText:
            stored = await queries.set_persona(
                session,
                key=key,
                level=level,
                place_id=place_id,
                name=name,
                prompt=prompt,
                author_id=author_id,
                limit=MAX_OWN_PERSONAS if own else MAX_GUILD_PERSONAS,
                now=now,
            )
            done = {"persona": stored.persona_id, "version": stored.version, "level": level, "place": place_id}
            await audit(session, key, own, "persona.set", author_id, now, **done)
            return stored

        with translate_database_errors(), library_errors(own):
            saved = SavedPersona(await self._database.run(store), size)
        self.changed.set()
        return saved

    async def assign(
        self, key: DialogKey, level: StoredLevel, persona_id: int, *, place_id: int = 0, actor_id: int | None = None
    ) -> bool:
        """Set an entry of the library at this level. False if it is gone."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool:
            stored = await queries.assign_persona(
                session, key=key, level=level, place_id=place_id, persona_id=persona_id, set_by=actor_id, now=now
            )
            if stored:
                done = {"persona": persona_id, "level": level, "place": place_id}
                await audit(session, key, level == "member", "persona.set", actor_id, now, **done)
            return stored

        with translate_database_errors():
            stored = await self._database.run(store)
        self.changed.set()
        return stored

    async def clear(
        self, key: DialogKey, level: StoredLevel, *, place_id: int = 0, actor_id: int | None = None
    ) -> bool:
        """Set none at this level; the one that was stays in the library. False if none was set."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool:
            cleared = await queries.clear_persona(session, key=key, level=level, place_id=place_id, now=now)
            if cleared:
                await audit(
                    session, key, level == "member", "persona.clear", actor_id, now, level=level, place=place_id
                )
            return cleared

        with translate_database_errors():
            cleared = await self._database.run(store)
        self.changed.set()
        return cleared

    async def entry_at(self, key: DialogKey, level: StoredLevel, place_id: int = 0) -> PersonaInfo | None:
        """The entry of the library that is set at this level, else the one that was changed last."""
        own = level == "member"
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.assigned_persona(session, key=key, level=level, place_id=place_id)
                if found is not None:
                    return await queries.get_persona(session, key=key, own=own, persona_id=found.persona_id)
                return await queries.latest_persona(session, key=key, own=own)

    async def has_conversations(self, guild_id: int, place_ids: Collection[int] | None) -> bool:
        """Whether something was said in the conversations that `begin_afresh` would end."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await place_has_pairs(session, guild_id=guild_id, place_ids=place_ids)

    async def begin_afresh(
        self,
        guild_id: int,
        place_ids: Collection[int] | None,
        *,
        begun_before: datetime | None = None,
        actor_id: int | None,
    ) -> ResetCounts:
        """End the open conversations of these channels and threads, or of the whole guild. It is in the audit log.

        `begun_before`: those that were begun before this moment.
        """
        now, key = datetime.now(UTC), DialogKey(guild_id, 0)

        async def store(session: Session) -> ResetCounts:
            ended = await end_dialogs_of_place(
                session, guild_id=guild_id, place_ids=place_ids, begun_before=begun_before, now=now
            )
            done = {"dialogs": ended.dialogs, "pairs": ended.pairs}
            await audit(session, key, False, "persona.begin_afresh", actor_id, now, **done)
            return ended

        with translate_database_errors():
            return await self._database.run(store)
