"""Character cards in a library of personas: an entry made from one, with its picture, and what an export needs.

The key selects the guild, and with `own` the member whose private library it is.
"""

from __future__ import annotations

import base64
from datetime import datetime

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, insert
from models.queries.tenants.persona_changes import create_persona, edit_persona, rate_persona
from models.queries.tenants.personas import find_persona, in_library
from models.tables import Persona, PersonaPicture, PersonaVersion
from models.types import DialogKey, PersonaInfo, StoredCard

PNG = "image/png"


async def import_persona(
    session: AsyncSession,
    *,
    key: DialogKey,
    own: bool,
    name: str,
    card: StoredCard,
    tags: tuple[str, ...],
    age_restricted: bool,
    replace: bool,
    author_id: int | None,
    limit: int,
    now: datetime,
) -> PersonaInfo:
    """Make an entry from a card, or with `replace` a new version of the entry of this name.

    `age_restricted`: it answers only in channels that Discord restricts by age; one that was so before stays so.
    Raises PersonaNameTaken without `replace`, or PersonaLibraryFull at `limit` entries.
    """
    existing = await find_persona(session, key=key, own=own, name=name) if replace else None
    stored: PersonaInfo | None = None
    if existing is not None:
        stored = await edit_persona(
            session,
            key=key,
            own=own,
            persona_id=existing.persona_id,
            prompt=card.prompt,
            card=card.json,
            author_id=author_id,
            now=now,
        )
    if stored is None:  # there is none of this name, or it was deleted just now
        stored = await create_persona(
            session,
            key=key,
            own=own,
            name=name,
            prompt=card.prompt,
            card=card.json,
            tags=tags,
            age_restricted=age_restricted,
            author_id=author_id,
            limit=limit,
            now=now,
        )
    elif age_restricted:
        stored = (
            await rate_persona(session, key=key, own=own, persona_id=stored.persona_id, age_restricted=True, now=now)
            or stored
        )
    if card.picture:
        values = {
            "media_type": PNG,
            "content": codec(session).seal(base64.b64encode(card.picture).decode()),
            "created_at": now,
        }
        new = insert(session, PersonaPicture).values(persona_id=stored.persona_id, **values)
        await session.execute(new.on_conflict_do_update(index_elements=[PersonaPicture.persona_id], set_=values))
    return stored


async def stored_card(session: AsyncSession, *, key: DialogKey, own: bool, persona_id: int) -> StoredCard | None:
    """Return the text, card and picture of an entry's version in force; None if there is no such entry."""
    row = (
        await session.execute(
            select(PersonaVersion.prompt, PersonaVersion.card, PersonaPicture.content)
            .join(
                Persona,
                and_(Persona.id == PersonaVersion.persona_id, Persona.active_version == PersonaVersion.version),
            )
            .outerjoin(PersonaPicture, PersonaPicture.persona_id == Persona.id)
            .where(in_library(key, own), Persona.id == persona_id)
        )
    ).first()
    if row is None:
        return None
    text = codec(session)
    return StoredCard(
        prompt=text.open(row.prompt),
        json=None if row.card is None else text.open(row.card),
        picture=b"" if row.content is None else base64.b64decode(text.open(row.content)),
    )
