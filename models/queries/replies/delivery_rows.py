"""Rows of deliveries and of their messages, for the queries of this package: their caller has found the rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec
from models.tables import Delivery, DeliveryMessage
from models.types import DeliveryRecord, DeliveryState, OutgoingMessage, Place


async def close_where(session: AsyncSession, *which: ColumnElement[bool]) -> None:
    """Mark deliveries done. Of their messages only the ids are kept."""
    closed = update(Delivery).where(*which).values(state="done", reply_token=None, owner=None, retry_at=None)
    ids = (await session.scalars(closed.returning(Delivery.id))).all()
    if ids:
        await session.execute(delete(Delivery).where(Delivery.id.in_(ids), Delivery.turn_id.is_(None)))
        unshown = DeliveryMessage.content.is_not(None)
        await session.execute(
            update(DeliveryMessage).where(DeliveryMessage.delivery_id.in_(ids), unshown).values(content=None)
        )


async def messages_of(session: AsyncSession, delivery_id: int) -> Sequence[DeliveryMessage]:
    """Return the messages of a delivery in their order."""
    rows = await session.scalars(
        select(DeliveryMessage)
        .where(DeliveryMessage.delivery_id == delivery_id)
        .order_by(DeliveryMessage.position)
        .execution_options(populate_existing=True)
    )
    return rows.all()


async def record_of(session: AsyncSession, row: Delivery) -> DeliveryRecord:
    """Return a delivery with its messages, decrypted."""
    text = codec(session)
    state: DeliveryState = "ready" if row.state == "ready" else "writing" if row.state == "writing" else "done"
    messages = tuple(
        OutgoingMessage(
            text="" if each.content is None else text.open(each.content),
            with_file=each.with_file,
            message_id=each.message_id,
            shown=each.content is None,
        )
        for each in await messages_of(session, row.id)
    )
    place = Place(
        guild_id=row.guild_id,
        channel_id=row.channel_id,
        asker_id=row.asker_id,
        nonce=row.nonce,
        ephemeral=row.ephemeral,
        application_id=row.application_id,
        reply_token=row.reply_token,
        token_expires_at=row.token_expires_at,
        question_id=row.question_id,
        about_id=row.about_id,
        webhook_id=row.webhook_id,
        webhook_name="" if row.webhook_name is None else text.open(row.webhook_name),
    )
    return DeliveryRecord(row.id, row.turn_id, state, place, messages, row.created_at, row.owner)
