"""Rows of deliveries and of their messages, for the queries of this package: their caller has found the rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Row, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import change, codec, rows_of
from models.tables import Delivery, DeliveryMessage
from models.types import DeliveryRecord, DeliveryState, OutgoingMessage, Place

_DONE = {"state": "done", "reply_token": None, "owner": None, "retry_at": None}
_CLOSE = (
    update(Delivery)
    .where(ours(Delivery), Delivery.id == bindparam("delivery"))
    .returning(Delivery.id, Delivery.turn_id)
)
_CLEAR = (
    update(DeliveryMessage)
    .where(DeliveryMessage.delivery_id == bindparam("delivery"))
    .where(DeliveryMessage.content.is_not(None))
)


async def close_where(session: AsyncSession, *which: ColumnElement[bool]) -> None:
    """Mark deliveries done. Of their messages only the ids are kept."""
    closed = update(Delivery).where(ours(Delivery), *which).values(**_DONE).returning(Delivery.id, Delivery.turn_id)
    await _clear(session, (await session.execute(closed)).all())


async def close_delivery(session: AsyncSession, delivery_id: int) -> None:
    """Mark one delivery done."""
    await _clear(session, (await rows_of(session, _CLOSE, {"delivery": delivery_id, **_DONE})).all())


async def _clear(session: AsyncSession, closed: Sequence[Row[int, int | None]]) -> None:
    if not closed:
        return
    without_turn = [row.id for row in closed if row.turn_id is None]
    if without_turn:
        await session.execute(delete(Delivery).where(ours(Delivery), Delivery.id.in_(without_turn)))
    for row in closed:
        await change(session, _CLEAR, {"delivery": row.id, "content": None})


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
        application_id=row.interaction_application_id,
        reply_token=None if row.reply_token is None else text.open(row.reply_token),
        token_expires_at=row.token_expires_at,
        question_id=row.question_id,
        about_id=row.about_id,
        webhook_id=row.webhook_id,
        webhook_name="" if row.webhook_name is None else text.open(row.webhook_name),
    )
    return DeliveryRecord(row.id, row.turn_id, state, place, messages, row.created_at, row.owner)
