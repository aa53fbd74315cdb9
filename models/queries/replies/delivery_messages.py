"""The Discord messages of a delivery: which were sent, which show their final text, whose turn they show."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, insert
from models.queries.replies.delivery_rows import close_where
from models.queries.scope import cross_tenant
from models.tables import Delivery, DeliveryMessage


@cross_tenant("the sender knows the delivery by its id")
async def message_attempted(session: AsyncSession, *, delivery_id: int, position: int) -> None:
    """Record that a message is about to be sent: after a crash, whether it is on Discord must be found out."""
    statement = insert(session, DeliveryMessage).values(delivery_id=delivery_id, position=position, with_file=False)
    await session.execute(statement.on_conflict_do_nothing())


@cross_tenant("the sender knows the delivery by its id")
async def message_sent(session: AsyncSession, *, delivery_id: int, position: int, message_id: int) -> None:
    """Record the id of a message that is on Discord now, while its reply is still being written."""
    statement = insert(session, DeliveryMessage).values(
        delivery_id=delivery_id, position=position, message_id=message_id, with_file=False
    )
    await session.execute(
        statement.on_conflict_do_update(index_elements=["delivery_id", "position"], set_={"message_id": message_id})
    )


@cross_tenant("the sender knows the delivery by its id")
async def messages_shown(
    session: AsyncSession, *, delivery_id: int, shown: Sequence[tuple[int, int | None]], done: bool
) -> None:
    """Record that messages (position, id) show their final text, or were deleted (id None). `done`: all of them."""
    for position, message_id in shown:
        which = (DeliveryMessage.delivery_id == delivery_id, DeliveryMessage.position == position)
        if message_id is None:
            await session.execute(delete(DeliveryMessage).where(*which))
        else:
            statement = insert(session, DeliveryMessage).values(
                delivery_id=delivery_id, position=position, message_id=message_id, with_file=False
            )
            final = {"message_id": message_id, "content": None}
            await session.execute(
                statement.on_conflict_do_update(index_elements=["delivery_id", "position"], set_=final)
            )
    if done:
        await close_where(session, Delivery.id == delivery_id)


@cross_tenant("the sender knows the delivery by its id")
async def spoken_through(session: AsyncSession, *, delivery_id: int, webhook_id: int | None, name: str) -> None:
    """Record through which webhook the messages are sent, and under which name; None: as the bot itself."""
    sealed = codec(session).seal(name) if webhook_id is not None else None
    which = update(Delivery).where(Delivery.id == delivery_id)
    await session.execute(which.values(webhook_id=webhook_id, webhook_name=sealed))


@cross_tenant("a message on Discord tells whose turn it shows")
async def turn_of_message(session: AsyncSession, *, message_id: int) -> int | None:
    """Return the turn whose reply this message on Discord shows."""
    turn_id: int | None = await session.scalar(
        select(Delivery.turn_id)
        .join(DeliveryMessage, DeliveryMessage.delivery_id == Delivery.id)
        .where(DeliveryMessage.message_id == message_id)
        .order_by(Delivery.id.desc())
        .limit(1)
    )
    return turn_id


@cross_tenant("the bot's own messages in a channel, of whichever tenant")
async def recorded_messages(session: AsyncSession, *, message_ids: Sequence[int]) -> frozenset[int]:
    """Return those of these messages on Discord that a delivery knows."""
    known = select(DeliveryMessage.message_id).where(DeliveryMessage.message_id.in_(message_ids))
    return frozenset(each for each in await session.scalars(known) if each is not None)
