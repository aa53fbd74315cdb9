"""Deliveries: what of a reply is still to be shown, recorded before it is sent.

A delivery is `writing` while its turn's reply is generated. The transaction that stores the reply also stores its
messages and makes the delivery `ready`; it is `done` when all of them have been shown. Those that a dead process left,
or that a living one could not show, are taken up by another one (unfinished_deliveries.py), a limited number of
times. A message that waits has one before its turn begins; one without a turn that is `ready` says that its turn was
forgotten. A delivery that is done keeps the ids of its messages, for their buttons, for as long as its turn is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache

from sqlalchemy import ColumnElement, Executable, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from models.application import ours
from models.queries.common import (
    attempt_number,
    change,
    codec,
    dialect,
    key_values,
    matches_key,
    matches_key_values,
    rows_of,
)
from models.queries.common import insert as insert_on
from models.queries.replies.delivery_rows import close_where, messages_of, record_of
from models.queries.replies.processes import is_dead, lost_processes
from models.queries.scope import cross_tenant
from models.queries.tenants.policy import load_policy
from models.tables import Delivery, DeliveryMessage, Dialog, Turn
from models.types import DeliveryRecord, DialogKey, OutgoingMessage, Place

_TAKE_OVER = (
    update(Delivery)
    .where(ours(Delivery), Delivery.turn_id.is_(None), Delivery.state == "writing")
    .where(Delivery.nonce == bindparam("asked_by"), Delivery.owner == bindparam("this_process"))
    .returning(Delivery.id)
)
"""Give the message that waits its turn. Discord may have hidden the response since it was recorded."""
_NEAR = 10_000
"""Records of one question are written within seconds: others need not be searched for it."""
_ADD = insert(Delivery).returning(Delivery.id)
_ADD_MESSAGE = insert(DeliveryMessage)
_OF_TURN = aliased(Delivery)
_READY = (
    update(Delivery)
    .where(
        ours(Delivery),
        Delivery.id
        == select(func.max(_OF_TURN.id))
        .where(ours(_OF_TURN), _OF_TURN.turn_id == bindparam("turn"))
        .where(_OF_TURN.turn_id.in_(select(Turn.id).join(Dialog).where(matches_key_values())))
        .scalar_subquery(),
    )
    .values(state="ready")
    .returning(Delivery.id)
)
"""Let the turn's latest delivery be shown."""
_UNNEEDED = update(DeliveryMessage).where(
    DeliveryMessage.delivery_id == bindparam("delivery"), DeliveryMessage.position >= bindparam("num_messages")
)


@cache
def _put_message(on: str) -> Executable:
    """Store what a message is to say; one that is on Discord already keeps its id."""
    put = insert_on(on, DeliveryMessage)
    changed = {"content": put.excluded.content, "with_file": put.excluded.with_file}
    return put.on_conflict_do_update(index_elements=["delivery_id", "position"], set_=changed)


async def begin_delivery(session: AsyncSession, *, key: DialogKey, turn_id: int, place: Place, now: datetime) -> int:
    """Record where the reply of a turn of this key will be shown; return the delivery's id.

    It is the record that the message has had while it waited, if it has one.
    """
    waiting = {
        "asked_by": place.nonce, "this_process": session.info.get("owner"), "turn_id": turn_id,
        "ephemeral": place.ephemeral,
    }  # fmt: skip
    taken_over = (await rows_of(session, _TAKE_OVER, waiting)).scalar()
    return await _add_delivery(session, turn_id, place, now) if taken_over is None else taken_over


async def begin_waiting(session: AsyncSession, *, key: DialogKey, place: Place, now: datetime) -> int:
    """Record a question that is acknowledged, or waits, and has no turn yet. 0 for a member who opted out."""
    if (await load_policy(session, key=key, now=now)).settings.opted_out:
        return 0
    if attempt_number(session) > 1:  # the first one may have been committed all the same
        owner = session.info.get("owner")
        mine = (Delivery.turn_id.is_(None), Delivery.nonce == place.nonce, Delivery.owner == owner)
        found = await session.scalar(select(Delivery.id).where(ours(Delivery), *mine).limit(1))
        if found is not None:
            return int(found)
    return await _add_delivery(session, None, place, now)


@cross_tenant("what asked is known by its id")
async def is_told_elsewhere(session: AsyncSession, *, delivery_id: int, nonce: int) -> bool:
    """Return whether something else than this record, which has no turn, tells the member what became of a question.

    That is a turn, another living process, or an older record: two processes may hear the same question.
    """
    near = Delivery.id.between(delivery_id - _NEAR, delivery_id + _NEAR)
    others = await session.execute(
        select(Delivery.id, Delivery.turn_id, Delivery.owner).where(
            ours(Delivery), near, Delivery.nonce == nonce, Delivery.id != delivery_id
        )
    )
    lost, this_process = await lost_processes(session), session.info.get("owner")

    def lives(owner: str | None) -> bool:
        return owner not in (None, this_process) and not is_dead(owner, lost)

    return any(row.turn_id is not None or row.id < delivery_id or lives(row.owner) for row in others)


@cross_tenant("the sender knows the delivery by its id")
async def end_waiting(session: AsyncSession, *, delivery_id: int) -> None:
    """Forget a message that waits no more, and never got a turn."""
    await session.execute(
        delete(Delivery).where(ours(Delivery), Delivery.id == delivery_id, Delivery.turn_id.is_(None))
    )


async def retract_deliveries(session: AsyncSession, *, turns: Select[int], kept_for: int, text: str) -> None:
    """Let the messages of turns that are about to be deleted say this, as far as the bot can change them.

    `kept_for`: the turn that replaces them; its messages stay. The caller must have found the turns by their key.
    """
    deliveries = (
        await session.scalars(
            select(Delivery).where(
                ours(Delivery), Delivery.turn_id.in_(turns), ~Delivery.ephemeral, Delivery.channel_id != 0
            )
        )
    ).all()
    kept = select(DeliveryMessage.message_id).join(Delivery).where(ours(Delivery), Delivery.turn_id == kept_for)
    known = {each for each in await session.scalars(kept) if each is not None}
    for delivery in deliveries:
        rows = [row for row in await messages_of(session, delivery.id) if row.message_id not in (None, *known)]
        if not rows:
            continue  # it goes with its turn
        known |= {row.message_id for row in rows if row.message_id is not None}
        delivery.turn_id, delivery.state, delivery.owner = None, "ready", None
        delivery.interaction_application_id = delivery.reply_token = delivery.question_id = None
        delivery.attempts, delivery.retry_at = 0, None
        others = DeliveryMessage.position.not_in([row.position for row in rows])
        await session.execute(delete(DeliveryMessage).where(DeliveryMessage.delivery_id == delivery.id, others))
        for number, row in enumerate(rows):
            row.content, row.with_file = codec(session).seal("" if number else text), False
    await session.flush()


async def _add_delivery(session: AsyncSession, turn_id: int | None, place: Place, now: datetime) -> int:
    delivery = {
        "turn_id": turn_id,
        "state": "writing",
        "owner": session.info.get("owner"),
        "interaction_application_id": place.application_id,
        "token_expires_at": place.token_expires_at,
        "ephemeral": place.ephemeral,
        "guild_id": place.guild_id,
        "channel_id": place.channel_id,
        "question_id": place.question_id,
        "reply_token": _sealed_token(session, place),
        "about_id": place.about_id,
        "asker_id": place.asker_id,
        "nonce": place.nonce,
        "created_at": now,
        "webhook_id": place.webhook_id,
        "webhook_name": codec(session).seal(place.webhook_name) if place.webhook_name else None,
    }
    delivery_id = (await rows_of(session, _ADD, delivery)).scalar_one()
    for position, message_id in enumerate(place.message_ids):
        message = {"delivery_id": delivery_id, "position": position, "message_id": message_id, "with_file": False}
        await change(session, _ADD_MESSAGE, message)
    return delivery_id


def _sealed_token(session: AsyncSession, place: Place) -> str | None:
    """Who has it can write as the bot in the member's place, for 15 minutes."""
    return None if place.reply_token is None else codec(session).seal(place.reply_token)


async def reopen_delivery(
    session: AsyncSession, *, key: DialogKey, turn_id: int, place: Place | None, in_place: bool, now: datetime
) -> int:
    """Begin to show another reply of a finished turn; return the delivery's id, 0 if nothing is to be recorded.

    `in_place`: in the messages of the latest delivery, to which `place` is the way; else in a new place.
    """
    if place is None:
        return 0
    latest = await _latest(session, key, turn_id) if in_place else None
    if latest is None:
        return await begin_delivery(session, key=key, turn_id=turn_id, place=place, now=now)
    latest.state, latest.owner = "writing", session.info.get("owner")
    latest.interaction_application_id, latest.reply_token = place.application_id, _sealed_token(session, place)
    latest.token_expires_at, latest.nonce, latest.created_at = place.token_expires_at, place.nonce, now
    latest.attempts, latest.retry_at = 0, None
    await session.flush()
    return latest.id


async def ready_delivery(
    session: AsyncSession, *, key: DialogKey, turn_id: int, messages: Sequence[OutgoingMessage]
) -> None:
    """Store the messages of a reply in the turn's latest delivery, which is then to be shown.

    Messages that are on Discord already keep their ids; those that the reply does not need are marked for deletion.
    """
    if not messages:
        return
    latest = {**key_values(key), "turn": turn_id, "owner": session.info.get("owner")}
    delivery_id = (await rows_of(session, _READY, latest)).scalar()
    if delivery_id is None:
        return
    text, put = codec(session), _put_message(dialect(session))
    for position, message in enumerate(messages):
        row = {
            "delivery_id": delivery_id,
            "position": position,
            "message_id": message.message_id,
            "content": text.seal(message.text),
            "with_file": message.with_file,
        }
        await change(session, put, row)
    rest = {"delivery": delivery_id, "num_messages": len(messages), "content": text.seal(""), "with_file": False}
    await change(session, _UNNEEDED, rest)


async def close_deliveries(session: AsyncSession, *, key: DialogKey, turn_id: int) -> None:
    """Mark the deliveries of a turn done, since it has nothing to show any more."""
    await close_where(session, Delivery.turn_id == turn_id, Delivery.state != "done", _of_key(key))


@cross_tenant("a process looks after its own turns, of every tenant")
async def close_deliveries_of(session: AsyncSession, *, turn_ids: Sequence[int]) -> None:
    """Mark the deliveries of these turns done: their process has said in their messages what there is to say."""
    await close_where(session, Delivery.turn_id.in_(turn_ids), Delivery.state != "done")


async def delivery_of_turn(session: AsyncSession, *, key: DialogKey, turn_id: int) -> DeliveryRecord | None:
    """Return the latest delivery of a turn: the messages that show its reply."""
    found = await _latest(session, key, turn_id)
    return None if found is None else await record_of(session, found)


async def _latest(session: AsyncSession, key: DialogKey, turn_id: int) -> Delivery | None:
    delivery: Delivery | None = await session.scalar(
        select(Delivery)
        .where(ours(Delivery), Delivery.turn_id == turn_id, _of_key(key))
        .order_by(Delivery.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )
    return delivery


def _of_key(key: DialogKey) -> ColumnElement[bool]:
    return Delivery.turn_id.in_(select(Turn.id).join(Dialog).where(matches_key(key)))
