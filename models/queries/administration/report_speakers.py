"""Whose words stand in the prompt of a turn, and which of them only the member who asked has seen."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.tables import Delivery, Dialog, Turn, TurnFile
from models.types import DialogKey


async def speakers_in_prompt(
    session: AsyncSession, *, key: DialogKey, turn_id: int, history: Collection[int]
) -> frozenset[int]:
    """Return who wrote in the dialog of a turn up to it, or in `history`, and whose messages were quoted there.

    Everyone of a shared dialog, since a summary may tell what was said before the pairs of the prompt.
    """
    dialog_id = select(Turn.dialog_id).where(Turn.id == turn_id).scalar_subquery()
    read = select(Turn.id).join(Dialog, Dialog.id == Turn.dialog_id).where(Dialog.guild_id == key.guild_id)
    read = read.where(Turn.id <= turn_id, or_(Turn.dialog_id == dialog_id, Turn.id.in_(history)))
    authors = await session.scalars(select(Turn.author_id).where(Turn.id.in_(read)).distinct())
    quoted = await session.scalars(select(TurnFile.author_id).where(TurnFile.turn_id.in_(read)).distinct())
    return frozenset(each for each in (*authors, *quoted) if each is not None)


async def answered_alone(session: AsyncSession, *, key: DialogKey, turn_ids: Collection[int]) -> frozenset[int]:
    """Return those of these turns of the key's guild whose answers only the member who asked has seen."""
    alone = (
        select(Delivery.turn_id)
        .join(Turn, Turn.id == Delivery.turn_id)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(Dialog.guild_id == key.guild_id, Delivery.turn_id.in_(turn_ids), Delivery.ephemeral)
    )
    return frozenset(each for each in await session.scalars(alone) if each is not None)
