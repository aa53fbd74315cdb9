"""The libraries of personas: a guild's own, and each member's private one in it, or in direct messages.

Makes, changes, finds and deletes their entries. Where they answer is in personas.py. Knows no permissions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bot.errors import BotError, PersonaExists, TooManyPersonas, UnknownPersona
from bot.guilds.persona_checks import PersonaLimits, PersonaSize, required_name, tags_of
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from models import queries
from models.database import Database, Session
from models.errors import PersonaLibraryFull, PersonaNameTaken
from models.queries.tenants.personas import name_key
from models.types import DialogKey, PersonaAssignmentInfo, PersonaInfo, PersonaVersionInfo

MAX_GUILD_PERSONAS = 100
MAX_OWN_PERSONAS = 20
PAGE = 10
"""Entries on one page of a list."""
Change = Callable[[Session], Awaitable[PersonaInfo | None]]


class PersonaGone(BotError):
    """The persona was deleted meanwhile."""

    def __init__(self) -> None:
        super().__init__(_("This persona has been deleted meanwhile."))


@dataclass(frozen=True, slots=True)
class PersonaPage:
    """A part of a library, where its entries are set, and whether there are entries before and after it."""

    entries: tuple[PersonaInfo, ...]
    places: dict[int, tuple[PersonaAssignmentInfo, ...]]
    has_earlier: bool
    has_later: bool


class PersonaLibrary:
    """The libraries of every guild; `own`: the private one of the key's member. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, limits: PersonaLimits, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change`: called after an entry changed or was deleted."""
        self._database = database
        self._on_change = on_change
        self._limits = limits

    async def page(
        self, key: DialogKey, *, own: bool, tag: str = "", after: int | None = None, before: int | None = None
    ) -> PersonaPage:
        """The entries by name next to that of an id, or the first ones, also if that entry is gone."""
        with translate_database_errors():
            async with self._database.read() as session:
                listed = partial(queries.personas_of, session, key=key, own=own, tag=tag)
                found = await listed(after=after, before=before, limit=PAGE + 1)
                if not found and (after is not None or before is not None):
                    found, after, before = await listed(limit=PAGE + 1), None, None
                more = len(found) > PAGE
                entries = found[:PAGE] if before is None else found[-PAGE:]
                ids = [each.persona_id for each in entries]
                places = await queries.assignments_of(session, key=key, own=own, persona_ids=ids)
        earlier, later = (more, True) if before is not None else (after is not None, more)
        return PersonaPage(entries, places, earlier, later)

    async def names(self, key: DialogKey, *, own: bool, typed: str, limit: int) -> tuple[str, ...]:
        """The names that contain what was typed, those that begin with it first."""
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.personas_of(session, key=key, own=own, limit=MAX_GUILD_PERSONAS)
        wanted = name_key(typed)
        fitting = [each.name for each in found if wanted in name_key(each.name)]
        return tuple(sorted(fitting, key=lambda name: not name_key(name).startswith(wanted))[:limit])

    async def find(self, key: DialogKey, name: str, *, own: bool) -> PersonaInfo | None:
        """The entry of this name."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.find_persona(session, key=key, own=own, name=name)

    async def named(self, key: DialogKey, name: str, *, own: bool) -> PersonaInfo:
        """The entry of this name. Raises UnknownPersona."""
        if (found := await self.find(key, name, own=own)) is None:
            raise UnknownPersona(name, command_of(own))
        return found

    async def get(self, key: DialogKey, persona_id: int, *, own: bool) -> PersonaInfo:
        """The entry of this id. Raises PersonaGone."""
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.get_persona(session, key=key, own=own, persona_id=persona_id)
        return _there(found)

    async def text(self, key: DialogKey, persona_id: int, *, own: bool) -> PersonaVersionInfo:
        """The version of an entry that is in force. Raises PersonaGone."""
        for version in await self.versions(key, persona_id, own=own):
            if version.active:
                return version
        raise PersonaGone()

    async def create(
        self, key: DialogKey, name: str, prompt: str, *, own: bool, tags: str = "", actor_id: int | None
    ) -> tuple[PersonaInfo, PersonaSize | None]:
        """Add an entry. Raises what PersonaLimits.check does, PersonaExists or TooManyPersonas."""
        name, tag_list = required_name(name), tags_of(tags)
        prompt, size = await self._limits.check(key, prompt)
        now = datetime.now(UTC)
        stored = await self._change(
            lambda session: queries.create_persona(
                session,
                key=key,
                own=own,
                name=name,
                prompt=prompt,
                tags=tag_list,
                author_id=actor_id,
                limit=MAX_OWN_PERSONAS if own else MAX_GUILD_PERSONAS,
                now=now,
            ),
            key, own, "persona.create", actor_id, now,
        )  # fmt: skip
        return stored, size

    async def edit(
        self, key: DialogKey, persona_id: int, prompt: str, *, own: bool, actor_id: int | None
    ) -> tuple[PersonaInfo, PersonaSize | None]:
        """Store a new version of an entry. Raises what PersonaLimits.check does, or PersonaGone."""
        prompt, size = await self._limits.check(key, prompt)
        now = datetime.now(UTC)
        stored = await self._change(
            lambda session: queries.edit_persona(
                session, key=key, own=own, persona_id=persona_id, prompt=prompt, author_id=actor_id, now=now
            ),
            key, own, "persona.edit", actor_id, now,
        )  # fmt: skip
        return stored, size

    async def rename(
        self, key: DialogKey, persona_id: int, name: str, *, own: bool, actor_id: int | None
    ) -> PersonaInfo:
        """Give an entry another name. Raises EmptyText, NulCharacters, TooLong, PersonaExists or PersonaGone."""
        name, now = required_name(name), datetime.now(UTC)
        return await self._change(
            lambda session: queries.rename_persona(
                session, key=key, own=own, persona_id=persona_id, name=name, now=now
            ),
            key, own, "persona.rename", actor_id, now,
        )  # fmt: skip

    async def tag(self, key: DialogKey, persona_id: int, tags: str, *, own: bool, actor_id: int | None) -> PersonaInfo:
        """Give an entry these tags. Raises NulCharacters, TooLong, BotError or PersonaGone."""
        tag_list, now = tags_of(tags), datetime.now(UTC)
        return await self._change(
            lambda session: queries.tag_persona(
                session, key=key, own=own, persona_id=persona_id, tags=tag_list, now=now
            ),
            key, own, "persona.tags", actor_id, now,
        )  # fmt: skip

    async def rate(
        self, key: DialogKey, persona_id: int, *, age_restricted: bool, own: bool, actor_id: int | None
    ) -> PersonaInfo:
        """Let an entry answer only in channels that Discord restricts by age, or everywhere. Raises PersonaGone."""
        now = datetime.now(UTC)
        return await self._change(
            lambda session: queries.rate_persona(
                session, key=key, own=own, persona_id=persona_id, age_restricted=age_restricted, now=now
            ),
            key, own, "persona.rating", actor_id, now, age_restricted=age_restricted,
        )  # fmt: skip

    async def rollback(
        self, key: DialogKey, persona_id: int, version: int, *, own: bool, actor_id: int | None
    ) -> PersonaInfo | None:
        """Put an earlier version in force. None if it is no longer stored."""
        now = datetime.now(UTC)

        async def store(session: Session) -> PersonaInfo | None:
            back = await queries.rollback_persona(
                session, key=key, own=own, persona_id=persona_id, version=version, now=now
            )
            if back is not None:
                await audit(session, key, own, "persona.rollback", actor_id, now, persona=persona_id, version=version)
            return back

        with translate_database_errors():
            return await self._database.run(store)

    async def delete(self, key: DialogKey, persona_id: int, *, own: bool, actor_id: int | None) -> bool:
        """Delete an entry for good, wherever it is set. False if it is gone already."""
        now = datetime.now(UTC)

        async def store(session: Session) -> bool:
            deleted = await queries.delete_persona(session, key=key, own=own, persona_id=persona_id)
            if deleted:
                await audit(session, key, own, "persona.delete", actor_id, now, persona=persona_id)
            return deleted

        with translate_database_errors():
            deleted = await self._database.run(store)
        self._on_change()
        return deleted

    async def versions(self, key: DialogKey, persona_id: int, *, own: bool) -> tuple[PersonaVersionInfo, ...]:
        """The stored versions of an entry, newest first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.persona_versions(session, key=key, own=own, persona_id=persona_id)

    async def places(self, key: DialogKey, persona_id: int, *, own: bool) -> tuple[PersonaAssignmentInfo, ...]:
        """Where an entry is set."""
        with translate_database_errors():
            async with self._database.read() as session:
                found = await queries.assignments_of(session, key=key, own=own, persona_ids=[persona_id])
        return found[persona_id]

    async def _change(
        self,
        change: Change,
        key: DialogKey,
        own: bool,
        action: str,
        actor_id: int | None,
        now: datetime,
        **details: bool,
    ) -> PersonaInfo:
        async def store(session: Session) -> PersonaInfo | None:
            stored = await change(session)
            if stored is not None:
                done = {"persona": stored.persona_id, "version": stored.active_version}
                await audit(session, key, own, action, actor_id, now, **done, **details)
            return stored

        with translate_database_errors(), library_errors(own):
            changed = _there(await self._database.run(store))
        self._on_change()
        return changed


def command_of(own: bool) -> str:
    """The command whose subcommands change this library."""
    return "/me persona" if own else "/persona"


@contextmanager
def library_errors(own: bool) -> Iterator[None]:
    """Turn what a library refuses into a BotError."""
    try:
        yield
    except PersonaNameTaken as taken:
        raise PersonaExists(taken.name, command_of(own)) from None
    except PersonaLibraryFull as full:
        raise TooManyPersonas(full.limit, command_of(own)) from None


async def audit(
    session: Session,
    key: DialogKey,
    own: bool,
    action: str,
    actor_id: int | None,
    now: datetime,
    **details: Any,
) -> None:
    """Record a change of what is the guild's: ids and numbers, never a name or a text. A member's own is theirs."""
    if not own:
        await queries.record_audit(session, key=key, actor_id=actor_id, action=action, details=details, now=now)


def _there(found: PersonaInfo | None) -> PersonaInfo:
    if found is None:
        raise PersonaGone()
    return found
