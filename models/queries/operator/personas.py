"""The personas of a guild as the operator reads them: the guild's own and its members', with all versions."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.operator.paging import OPERATOR
from models.queries.scope import cross_tenant
from models.queries.tenants.personas import persona_versions, shown_name
from models.tables import Persona
from models.types import DialogKey, PersonaVersionInfo
from models.types.operator import PersonaRow


@cross_tenant(OPERATOR)
async def persona_rows(session: AsyncSession, *, guild_id: int, after: int, limit: int) -> tuple[PersonaRow, ...]:
    """Return the next personas of a guild and of its members, by id."""
    found = select(Persona).where(ours(Persona), Persona.guild_id == guild_id, Persona.id > after)
    return tuple(_row(each) for each in await session.scalars(found.order_by(Persona.id).limit(limit)))


@cross_tenant(OPERATOR)
async def persona_row(session: AsyncSession, *, guild_id: int, persona_id: int) -> PersonaRow | None:
    """Return one persona of a guild or of a member in it, or None."""
    found = select(Persona).where(ours(Persona), Persona.guild_id == guild_id, Persona.id == persona_id)
    row = await session.scalar(found)
    return None if row is None else _row(row)


@cross_tenant(OPERATOR)
async def versions_of(session: AsyncSession, *, row: PersonaRow) -> tuple[PersonaVersionInfo, ...]:
    """Return the stored versions of a persona, newest first."""
    key = DialogKey(row.guild_id, row.owner_id or 0)
    return await persona_versions(session, key=key, own=row.owner_id is not None, persona_id=row.persona_id)


def _row(row: Persona) -> PersonaRow:
    name = shown_name(row.name) if row.owner_id is None else None
    return PersonaRow(
        row.id, row.guild_id, row.owner_id, name, row.active_version, row.updated_at, bool(row.age_restricted)
    )
