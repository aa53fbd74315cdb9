"""The bot's own profile in guilds: what it shall show, what Discord was sent last, and who sends the next change.

Several processes may look after the same guild: `claim_profile` lets one of them send a change.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from typing import get_args

from sqlalchemy import select, union, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, insert
from models.queries.scope import cross_tenant
from models.tables import GuildProfile, GuildSettingsRow, Persona, PersonaAssignment, PersonaPicture
from models.types import DialogKey, PersonaFace, ProfileProblem, SentProfile, WantedProfile

PLAIN = WantedProfile(None, "", None, "")
"""The bot's own name and picture."""


@cross_tenant("the job that keeps the bot's profile looks at all guilds; it reads ids only")
async def guilds_with_profile(session: AsyncSession) -> tuple[int, ...]:
    """Return the guilds that want a profile, or in which one is shown."""
    wanted = select(GuildSettingsRow.guild_id).where(GuildSettingsRow.persona_face == "profile")
    shown = select(GuildProfile.guild_id).where(GuildProfile.fingerprint != PLAIN.fingerprint)
    unclear = select(GuildProfile.guild_id).where(GuildProfile.problem.in_(("sending", "slower")))
    return tuple((await session.scalars(union(wanted, shown, unclear))).all())


async def wanted_profile(session: AsyncSession, *, key: DialogKey, face: PersonaFace = "profile") -> WantedProfile:
    """Return what the profile in the key's guild shall show, or with another face, its webhooks."""
    row = (
        await session.execute(
            select(Persona.id, Persona.name, PersonaPicture.content)
            .join(PersonaAssignment, PersonaAssignment.persona_id == Persona.id)
            .join(GuildSettingsRow, GuildSettingsRow.guild_id == PersonaAssignment.guild_id)
            .outerjoin(PersonaPicture, PersonaPicture.persona_id == Persona.id)
            .where(PersonaAssignment.guild_id == key.guild_id, PersonaAssignment.level == "guild")
            .where(Persona.age_restricted.is_(False))  # a profile is seen in every channel
            .where(GuildSettingsRow.persona_face == face)
        )
    ).first()
    if row is None:
        return PLAIN
    picture = None if row.content is None else base64.b64decode(codec(session).open(row.content))
    # Keyed by the guild: equal pictures of two guilds have different hashes.
    parts = (str(key.guild_id).encode(), row.name.encode(), picture or b"")
    fingerprint = hashlib.sha256(b"\0".join(parts)).hexdigest()
    return WantedProfile(row.id, row.name, picture, fingerprint)


async def sent_profile(session: AsyncSession, *, key: DialogKey) -> SentProfile | None:
    """Return what Discord was sent last for the key's guild; None if it never was anything."""
    row = await session.get(GuildProfile, key.guild_id)
    return None if row is None else SentProfile(row.fingerprint, _problem(row.problem), row.sent_at)


async def persona_in_profile(session: AsyncSession, *, key: DialogKey) -> int | None:
    """Return the persona that the profile in the key's guild shows; None where it shows none, or that is not known."""
    shown = select(GuildProfile.persona_id).where(GuildProfile.guild_id == key.guild_id, GuildProfile.problem.is_(None))
    persona_id: int | None = await session.scalar(shown)
    return persona_id


async def claim_profile(
    session: AsyncSession, *, key: DialogKey, wanted: WantedProfile, before: SentProfile | None, now: datetime
) -> bool:
    """Record that this is being sent. False if another process has sent something since `before` was read."""
    values = {
        "persona_id": wanted.persona_id,
        "fingerprint": wanted.fingerprint,
        "problem": "sending",
        "sent_at": now,
    }
    if before is None:
        new = insert(session, GuildProfile).values(guild_id=key.guild_id, **values).on_conflict_do_nothing()
        return await session.scalar(new.returning(GuildProfile.guild_id)) is not None
    changed = update(GuildProfile).where(GuildProfile.guild_id == key.guild_id, GuildProfile.sent_at == before.sent_at)
    return await session.scalar(changed.values(**values).returning(GuildProfile.guild_id)) is not None


async def profile_sent(
    session: AsyncSession, *, key: DialogKey, wanted: WantedProfile, problem: ProfileProblem | None
) -> None:
    """Record what Discord said of it, unless something else was sent since."""
    await session.execute(
        update(GuildProfile)
        .where(GuildProfile.guild_id == key.guild_id, GuildProfile.fingerprint == wanted.fingerprint)
        .values(problem=problem)
    )


def _problem(stored: str | None) -> ProfileProblem | None:
    return next((problem for problem in get_args(ProfileProblem) if problem == stored), None)
