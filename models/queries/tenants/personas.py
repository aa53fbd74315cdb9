"""The library of personas: a guild's own, and each member's private one in it. Found, listed, its versions read.

The key selects the guild, and with `own` the member whose private library it is. An id or a name of another guild's or
another member's persona matches nothing. Changes are in persona_changes.py; where a persona answers is in
persona_assignments.py.
"""

from __future__ import annotations

import json
import unicodedata

from sqlalchemy import ColumnElement, ScalarSelect, and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec
from models.tables import Persona, PersonaVersion
from models.types import DialogKey, PersonaInfo, PersonaVersionInfo

UNNAMED = "Persona"  # the name of an entry that was stored without one


def name_key(name: str) -> str:
    """A name without the differences that do not matter, or cannot be seen: no library has two names of one key."""
    visible = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())


def shown_name(name: str) -> str:
    """The name of an entry or version as it is shown; "" for one that was stored without a name."""
    return "" if name == UNNAMED else name


async def personas_of(
    session: AsyncSession,
    *,
    key: DialogKey,
    own: bool,
    tag: str = "",
    after: int | None = None,
    before: int | None = None,
    limit: int,
) -> tuple[PersonaInfo, ...]:
    """Return the first entries of a library by name; those with a tag, if it is given.

    `after`, `before`: the id of an entry, for those next to it on that side.
    """
    found = select(Persona).where(in_library(key, own))
    if after is not None:
        found = found.where(Persona.name_key > _key_of(key, own, after))
    if before is not None:
        found = found.where(Persona.name_key < _key_of(key, own, before))
    found = found.order_by(Persona.name_key if before is None else Persona.name_key.desc())
    if tag:  # a library is bounded
        entries = map(info_of, await session.scalars(found))
        rows = [each for each in entries if name_key(tag) in map(name_key, each.tags)]
    else:
        rows = [info_of(row) for row in await session.scalars(found.limit(limit))]
    return tuple(rows[:limit] if before is None else reversed(rows[:limit]))


async def find_persona(session: AsyncSession, *, key: DialogKey, own: bool, name: str) -> PersonaInfo | None:
    """Return the entry of this name, or None."""
    row = await session.scalar(select(Persona).where(in_library(key, own), Persona.name_key == name_key(name)))
    return None if row is None else info_of(row)


async def get_persona(session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int) -> PersonaInfo | None:
    """Return the entry of this id, or None."""
    row = await session.scalar(select(Persona).where(in_library(key, own), Persona.id == persona_id))
    return None if row is None else info_of(row)


async def latest_persona(session: AsyncSession, *, key: DialogKey, own: bool) -> PersonaInfo | None:
    """Return the entry that last changed, or was last set or cleared somewhere; None if the library is empty."""
    newest = select(Persona).where(in_library(key, own)).order_by(Persona.updated_at.desc(), Persona.id.desc())
    row = await session.scalar(newest.limit(1))
    return None if row is None else info_of(row)


async def persona_versions(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int
) -> tuple[PersonaVersionInfo, ...]:
    """Return the stored versions of an entry, newest first."""
    rows = await session.execute(
        select(PersonaVersion, Persona.active_version)
        .join(Persona, Persona.id == PersonaVersion.persona_id)
        .where(in_library(key, own), Persona.id == persona_id)
        .order_by(PersonaVersion.version.desc())
    )
    text = codec(session)
    return tuple(
        PersonaVersionInfo(
            version.version,
            shown_name(version.name),
            text.open(version.prompt),
            version.author_id,
            version.created_at,
            version.version == active,
            None if version.card is None else text.open(version.card),
        )
        for version, active in rows
    )


def _key_of(key: DialogKey, own: bool, persona_id: int) -> ScalarSelect[str]:
    """The key of an entry of this library: compared with a foreign one, the entries on a page would tell its name."""
    return select(Persona.name_key).where(in_library(key, own), Persona.id == persona_id).scalar_subquery()


def in_library(key: DialogKey, own: bool) -> ColumnElement[bool]:
    """Return the condition that a Persona belongs to the key's guild, or with `own` to its member there."""
    return and_(
        ours(Persona),
        Persona.guild_id == key.guild_id,
        Persona.owner_id == key.user_id if own else Persona.owner_id.is_(None),
    )


def info_of(row: Persona) -> PersonaInfo:
    """Return an entry without its text."""
    tags = tuple(str(tag) for tag in json.loads(row.tags))
    own = row.owner_id is not None
    return PersonaInfo(row.id, row.name, tags, row.active_version, own, row.created_at, row.age_restricted)
