"""Which persona gave a stored reply, as far as its name stands above it: two columns of a turn and of each variant."""

from __future__ import annotations

from typing import TypedDict

from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec
from models.types import Speaker


class SpeakerColumns(TypedDict):
    """The two columns."""

    speaker_id: int | None
    speaker_name: str | None


def speaker_of(session: AsyncSession, persona_id: int | None, name: str | None) -> Speaker | None:
    """Return the speaker that the two columns of a row name."""
    return None if name is None else Speaker(persona_id or 0, codec(session).open(name))


def speaker_values(session: AsyncSession, speaker: Speaker | None) -> SpeakerColumns:
    """Return the two columns of a row for a speaker."""
    if speaker is None:
        return SpeakerColumns(speaker_id=None, speaker_name=None)
    return SpeakerColumns(speaker_id=speaker.persona_id, speaker_name=codec(session).seal(speaker.name))
