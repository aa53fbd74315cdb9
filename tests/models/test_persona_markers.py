"""Markers: each library holds texts that name it, and no query with another key ever returns one of them.

Asked by every id and name that the others have, of every query on personas; what is changed with a foreign id must
leave the others' rows as they were.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from models import queries
from models.database import Database
from models.tables import Base, PersonaVersion
from models.types import DialogKey, PersonaInfo, PersonaScope, StoredLevel

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEYS = [DialogKey(guild, user) for guild in (0, 100, 101) for user in (7, 8)]
SCOPE = PersonaScope(4, 5, 6)
PLACES: dict[StoredLevel, int] = {"guild": 0, "category": 4, "channel": 5, "thread": 6, "member": 0}
LIBRARIES = [(key, own) for key in KEYS for own in (True, False) if own or (key.guild_id and key.user_id == 7)]
"""Direct messages have no library but the member's own, and that of a guild has no owner."""


def marker(key: DialogKey, own: bool) -> str:
    return f"<{key.guild_id}-{key.user_id if own else 'all'}>"


def markers_in(value: object) -> set[str]:
    """The markers in whatever a query returned, in fields too that a repr leaves out."""
    plain = [dataclasses.asdict(each) if dataclasses.is_dataclass(each) else each for each in _items(value)]  # type: ignore[call-overload]
    return {marker(key, own) for key, own in LIBRARIES if marker(key, own) in str(plain)}


def _items(value: object) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


async def fill(database: Database) -> dict[str, PersonaInfo]:
    made: dict[str, PersonaInfo] = {}
    async with database.write() as session:
        for key, own in LIBRARIES:
            mark = marker(key, own)
            made[mark] = await queries.create_persona(
                session, key=key, own=own, name=f"N {mark}", prompt=f"P {mark}", card=f'{{"c": "{mark}"}}',
                tags=(mark,), author_id=key.user_id, limit=9, now=NOW,
            )  # fmt: skip
            for level, place in PLACES.items():
                if (level == "member") == own:
                    assert await queries.assign_persona(
                        session, key=key, level=level, place_id=place, persona_id=made[mark].persona_id,
                        set_by=key.user_id, now=NOW,
                    )  # fmt: skip
    return made


async def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    async with database.read() as session:
        tables = [Base.metadata.tables[name] for name in ("personas", "persona_versions", "persona_assignments")]
        return {table.name: [tuple(row) for row in await session.execute(select(table))] for table in tables}


async def test_no_query_returns_what_is_in_another_library(database: Database) -> None:
    made = await fill(database)
    async with database.read() as session:
        for key in KEYS:
            allowed = {marker(key, True), f"<{key.guild_id}-all>"}
            for shared in (False, True):
                asker = dataclasses.replace(key, channel_id=5, shared=shared)
                for own_allowed in (True, False):
                    scope = dataclasses.replace(SCOPE, own_allowed=own_allowed)
                    answer = await queries.effective_persona(session, key=asker, scope=scope)
                    wanted = (own_allowed and not shared) or not key.guild_id
                    expected = marker(key, True) if wanted else f"<{key.guild_id}-all>"
                    assert markers_in(answer) == {expected}
                    assert markers_in(await queries.persona_levels(session, key=asker, scope=scope)) <= allowed
            for level, place in PLACES.items():
                found = await queries.assigned_persona(session, key=key, level=level, place_id=place)
                assert markers_in(found) <= {marker(key, True) if level == "member" else f"<{key.guild_id}-all>"}
            for own in (True, False):
                mine = {marker(key, True) if own else f"<{key.guild_id}-all>"}
                assert markers_in(await queries.latest_persona(session, key=key, own=own)) <= mine
                for mark, entry in made.items():
                    asked: dict[str, Any] = {"key": key, "own": own}
                    assert markers_in(await queries.find_persona(session, **asked, name=entry.name)) <= mine
                    assert markers_in(await queries.personas_of(session, **asked, tag=mark, limit=9)) <= mine
                    listed = await queries.personas_of(session, **asked, after=entry.persona_id, limit=9)
                    assert markers_in(listed) <= mine
                    by_id = {**asked, "persona_id": entry.persona_id}
                    assert markers_in(await queries.get_persona(session, **by_id)) <= mine
                    assert markers_in(await queries.persona_versions(session, **by_id)) <= mine
                    places = await queries.assignments_of(session, **asked, persona_ids=[entry.persona_id])
                    assert bool(places[entry.persona_id]) == (mark in mine)


async def test_no_change_reaches_another_library(database: Database) -> None:
    made = await fill(database)
    before = await rows(database)
    for key in KEYS:
        for own in (True, False):
            mine = marker(key, True) if own else f"<{key.guild_id}-all>"
            for mark, entry in made.items():
                if mark == mine:
                    continue
                by_id: dict[str, Any] = {"key": key, "own": own, "persona_id": entry.persona_id}
                async with database.write() as session:
                    stolen = {"prompt": "stolen", "author_id": key.user_id, "now": NOW}
                    assert await queries.edit_persona(session, **by_id, **stolen) is None
                    assert await queries.rename_persona(session, **by_id, name="stolen", now=NOW) is None
                    assert await queries.tag_persona(session, **by_id, tags=("stolen",), now=NOW) is None
                    assert await queries.rollback_persona(session, **by_id, version=1, now=NOW) is None
                    assert not await queries.delete_persona(session, **by_id)
                    level: StoredLevel = "member" if own else "guild"
                    assert not await queries.assign_persona(
                        session, key=key, level=level, persona_id=entry.persona_id, set_by=key.user_id, now=NOW
                    )
    assert await rows(database) == before


async def test_a_version_that_is_gone_answers_nothing(database: Database) -> None:
    """A row that another program damaged: the persona behind it is not mixed with another one."""
    await fill(database)
    async with database.write() as session:
        await session.execute(update(PersonaVersion).values(version=9))
    async with database.read() as session:
        assert await queries.effective_persona(session, key=KEYS[2], scope=SCOPE) is None
