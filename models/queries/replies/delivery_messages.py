"""The Discord messages of a delivery: which were sent, which show their final text, whose turn they show."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Executable, Integer, bindparam, delete, false, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.base import Snowflake
from models.queries.common import change, codec, dialect, insert
from models.queries.dialogs.speakers import speaker_of
from models.queries.replies.delivery_rows import close_delivery
from models.queries.scope import cross_tenant
from models.tables import Delivery, DeliveryMessage, Dialog, Turn
from models.types import DialogKey, Speaker

_DELETE = delete(DeliveryMessage).where(
    DeliveryMessage.delivery_id == bindparam("delivery"), DeliveryMessage.position == bindparam("at")
)


def _insert(on: str) -> sqlite.Insert | postgresql.Insert:
    """Insert a message, unless its delivery is gone: the turn may have been deleted while its reply is shown."""
    columns = ["delivery_id", "position", "message_id", "with_file"]
    values = (bindparam("at", type_=Integer()), bindparam("message", type_=Snowflake), false())
    owner = select(Delivery.id, *values).where(ours(Delivery), Delivery.id == bindparam("delivery"))
    return insert(on, DeliveryMessage).from_select(columns, owner)


@cache
def _attempted(on: str) -> Executable:
    """Store that a message is about to be sent, if nothing is known of it yet."""
    return _insert(on).on_conflict_do_nothing()


@cache
def _sent(on: str, final: bool) -> Executable:
    """Store the id of a message, which shows its `final` text or not yet."""
    sent = _insert(on)
    known: dict[str, Any] = {"message_id": sent.excluded.message_id}
    return sent.on_conflict_do_update(
        index_elements=["delivery_id", "position"], set_={**known, "content": None} if final else known
    )


@cross_tenant("the sender knows the delivery by its id")
async def message_attempted(session: AsyncSession, *, delivery_id: int, position: int) -> None:
    """Record that a message is about to be sent: after a crash, whether it is on Discord must be found out."""
    row = {"delivery": delivery_id, "at": position, "message": None}
    await change(session, _attempted(dialect(session)), row)


@cross_tenant("the sender knows the delivery by its id")
async def message_sent(session: AsyncSession, *, delivery_id: int, position: int, message_id: int) -> None:
    """Record the id of a message that is on Discord now, while its reply is still being written."""
    await _record(session, delivery_id, position, message_id, final=False)


@cross_tenant("the sender knows the delivery by its id")
async def messages_shown(
    session: AsyncSession, *, delivery_id: int, shown: Sequence[tuple[int, int | None]], done: bool
) -> None:
    """Record that messages (position, id) show their final text, or were deleted (id None). `done`: all of them."""
    for position, message_id in shown:
        if message_id is None:
            await change(session, _DELETE, {"delivery": delivery_id, "at": position})
        else:
            await _record(session, delivery_id, position, message_id, final=True)
    if done:
        await close_delivery(session, delivery_id)


async def _record(session: AsyncSession, delivery_id: int, position: int, message_id: int, *, final: bool) -> None:
    row = {"delivery": delivery_id, "at": position, "message": message_id}
    await change(session, _sent(dialect(session), final), row)


@cross_tenant("the sender knows the delivery by its id")
async def spoken_through(session: AsyncSession, *, delivery_id: int, webhook_id: int | None, name: str) -> None:
    """Record through which webhook the messages are sent, and under which name; None: as the bot itself."""
    sealed = codec(session).seal(name) if webhook_id is not None else None
    which = update(Delivery).where(ours(Delivery), Delivery.id == delivery_id)
    await session.execute(which.values(webhook_id=webhook_id, webhook_name=sealed))


@cross_tenant("a message on Discord tells whose turn it shows")
async def turn_of_message(session: AsyncSession, *, message_id: int) -> int | None:
    """Return the turn whose reply this message on Discord shows."""
    turn_id: int | None = await session.scalar(
        select(Delivery.turn_id)
        .join(DeliveryMessage, DeliveryMessage.delivery_id == Delivery.id)
        .where(ours(Delivery), DeliveryMessage.message_id == message_id)
        .order_by(Delivery.id.desc())
        .limit(1)
    )
    return turn_id


async def speaker_of_message(session: AsyncSession, *, key: DialogKey, message_id: int) -> Speaker | None:
    """Return who gave the reply that this message on Discord shows, of any dialog in the key's guild."""
    found = (
        select(Turn.speaker_id, Turn.speaker_name)
        .join(Delivery, Delivery.turn_id == Turn.id)
        .join(DeliveryMessage, DeliveryMessage.delivery_id == Delivery.id)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(ours(Delivery), DeliveryMessage.message_id == message_id, ours(Dialog), Dialog.guild_id == key.guild_id)
    )
    row = (await session.execute(found.order_by(Delivery.id.desc()).limit(1))).first()
    return None if row is None else speaker_of(session, row.speaker_id, row.speaker_name)


@cross_tenant("the bot's own messages in a channel, of whichever tenant")
async def recorded_messages(session: AsyncSession, *, message_ids: Sequence[int]) -> frozenset[int]:
    """Return those of these messages on Discord that a delivery knows."""
    known = select(DeliveryMessage.message_id).join(Delivery, Delivery.id == DeliveryMessage.delivery_id)
    known = known.where(ours(Delivery), DeliveryMessage.message_id.in_(message_ids))
    return frozenset(each for each in await session.scalars(known) if each is not None)
