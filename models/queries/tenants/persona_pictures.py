"""The pictures of personas: set, read, removed. The key selects the guild, and with `own` the member's library."""

from __future__ import annotations

import base64
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, insert
from models.queries.tenants.personas import get_persona, in_library
from models.tables import Persona, PersonaPicture
from models.types import DialogKey

PNG = "image/png"


async def set_picture(
    session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int, png: bytes, now: datetime
) -> bool:
    """Store the picture of an entry instead of the one before. False if there is no such entry."""
    if await get_persona(session, key=key, own=own, persona_id=persona_id) is None:
        return False
    values = {"media_type": PNG, "content": codec(session).seal(base64.b64encode(png).decode()), "created_at": now}
    new = insert(session, PersonaPicture).values(persona_id=persona_id, **values)
    await session.execute(new.on_conflict_do_update(index_elements=["persona_id"], set_=values))
    return True


async def remove_picture(session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int) -> bool:
    """Delete the picture of an entry. False if it has none."""
    entry = select(Persona.id).where(in_library(key, own), Persona.id == persona_id)
    removed = delete(PersonaPicture).where(PersonaPicture.persona_id.in_(entry)).returning(PersonaPicture.persona_id)
    return await session.scalar(removed) is not None


async def picture_of(session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int) -> bytes | None:
    """Return the picture of an entry, or None."""
    content = await session.scalar(
        select(PersonaPicture.content)
        .join(Persona, Persona.id == PersonaPicture.persona_id)
        .where(in_library(key, own), Persona.id == persona_id)
    )
    return None if content is None else base64.b64decode(codec(session).open(content))
