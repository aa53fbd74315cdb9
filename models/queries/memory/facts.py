"""The facts that are remembered about a member in a guild: read, written, used, forgotten. At most MAX_FACTS each.

The key selects guild and member; its channel is ignored. Facts of direct messages are those of guild 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, case, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec, ensure_guild, ensure_user, num_deleted
from models.queries.memory.forgetting import forgotten_until
from models.queries.privacy.opt_outs import has_opted_out
from models.queries.scope import cross_tenant
from models.tables import Delivery, DeliveryMessage, Dialog, Fact, Turn, User
from models.types import DIRECT_MESSAGES, DialogKey, MemoryFact

MAX_FACTS = 50
"""Of a member in a guild."""


async def facts_of(session: AsyncSession, *, key: DialogKey, shared: bool = False) -> tuple[MemoryFact, ...]:
    """Return the member's facts, the newest first. `shared`: those that others may see, in a shared dialog."""
    found = select(Fact).where(_mine(key))
    if shared:
        found = found.where(~Fact.private)
    return await _read(session, found.order_by(Fact.source_at.desc(), Fact.id.desc()))


async def fact_of(session: AsyncSession, *, key: DialogKey, fact_id: int) -> MemoryFact | None:
    """Return one of the member's facts, or None."""
    return next(iter(await _read(session, select(Fact).where(_mine(key), Fact.id == fact_id))), None)


async def facts_by_id(session: AsyncSession, *, key: DialogKey, fact_ids: Collection[int]) -> tuple[MemoryFact, ...]:
    """Return those of these facts that still exist."""
    return await _read(session, select(Fact).where(_mine(key), Fact.id.in_(fact_ids)).order_by(Fact.id))


@cross_tenant("the operator's overview")
async def facts_in_guild(session: AsyncSession, *, guild_id: int, fact_ids: Sequence[int]) -> tuple[MemoryFact, ...]:
    """Return those of these facts of a guild's members that still exist, in this order."""
    found = await _read(session, select(Fact).where(ours(Fact), Fact.guild_id == guild_id, Fact.id.in_(fact_ids)))
    return tuple(sorted(found, key=lambda fact: fact_ids.index(fact.fact_id)))


async def sources_of(session: AsyncSession, *, key: DialogKey, turn_ids: Collection[int]) -> dict[int, tuple[int, int]]:
    """Return the channel and message in which the replies of these turns are shown, as far as that is public."""
    rows = await session.execute(
        select(Delivery.turn_id, Delivery.channel_id, DeliveryMessage.message_id)
        .join(DeliveryMessage, DeliveryMessage.delivery_id == Delivery.id)
        .join(Turn, Turn.id == Delivery.turn_id)
        .where(
            Delivery.turn_id.in_(turn_ids),
            ours(Delivery),
            Delivery.guild_id == key.guild_id,
            Turn.author_id == key.user_id,
        )
        .where(~Delivery.ephemeral, Delivery.channel_id != 0, DeliveryMessage.message_id.is_not(None))
        .order_by(DeliveryMessage.position.desc())
    )
    return {row.turn_id: (row.channel_id, row.message_id) for row in rows}


async def add_fact(session: AsyncSession, *, key: DialogKey, text: str, private: bool = False, now: datetime) -> bool:
    """Store a fact that the member wrote. False if they opted out, and nothing of them is stored.

    `private`: it stands in no prompt of a shared dialog.
    """
    if await has_opted_out(session, key=key):
        return False
    await ensure_guild(session, key.guild_id, now)
    await ensure_user(session, key.user_id, now)
    await _lock(session, key)
    session.add(
        Fact(
            guild_id=key.guild_id,
            user_id=key.user_id,
            text=codec(session).seal(text),
            source_at=now,
            created_at=now,
            last_used_at=now,
            edited=True,
            private=private,
        )
    )
    await session.flush()
    await _make_room(session, key)
    return True


async def edit_fact(session: AsyncSession, *, key: DialogKey, fact_id: int, text: str, now: datetime) -> bool:
    """Replace the words of a fact. False if the member has no such fact.

    A fact that was found in a message becomes private: others may have read the message, but not the new words. One
    that the member added stays as private as it was.
    """
    now_private = case((Fact.source_turn_id.is_(None), Fact.private), else_=Fact.guild_id != DIRECT_MESSAGES)
    changed = await session.scalar(
        update(Fact)
        .where(_mine(key), Fact.id == fact_id)
        .values(text=codec(session).seal(text), edited=True, last_used_at=now, private=now_private)
        .returning(Fact.id)
        .execution_options(synchronize_session=False)
    )
    return changed is not None


async def forget_fact(session: AsyncSession, *, key: DialogKey, fact_id: int) -> bool:
    """Delete a fact. False if the member has no such fact."""
    return num_deleted(await session.execute(delete(Fact).where(_mine(key), Fact.id == fact_id))) > 0


async def forget_facts(session: AsyncSession, *, key: DialogKey) -> int:
    """Delete all facts of the member in this guild; return how many."""
    return num_deleted(await session.execute(delete(Fact).where(_mine(key))))


async def use_facts(session: AsyncSession, *, key: DialogKey, fact_ids: Sequence[int], now: datetime) -> None:
    """Record that these facts stood in a prompt."""
    if fact_ids:
        await session.execute(
            update(Fact)
            .where(_mine(key), Fact.id.in_(fact_ids), Fact.last_used_at < now)
            .values(last_used_at=now)
            .execution_options(synchronize_session=False)
        )


async def store_facts(
    session: AsyncSession,
    *,
    key: DialogKey,
    texts: Sequence[str],
    turn_id: int,
    same: Callable[[str, str], bool],
    now: datetime,
) -> int:
    """Store what a message of the member told, unless it is known (`same`); return how many facts are new.

    Nothing is stored if the turn was forgotten or is another member's, or if the member had all notes forgotten since.
    A fact that says the same is dated anew.
    """
    turn = (
        await session.execute(
            select(Turn.created_at, _answered_alone())
            .join(Dialog, Dialog.id == Turn.dialog_id)
            .where(ours(Dialog), Dialog.guild_id == key.guild_id, Turn.author_id == key.user_id)
            .where(Turn.id == turn_id, Turn.status == "done")
            .with_for_update(read=True, of=Turn)  # it is forgotten after this, with its facts, or not at all
        )
    ).one_or_none()
    if turn is None or not texts:
        return 0
    said_at, private = turn
    forgotten_at = await forgotten_until(session, key=key)
    if forgotten_at is not None and said_at <= forgotten_at:
        return 0
    await _lock(session, key)
    known = {fact.fact_id: fact for fact in await facts_of(session, key=key)}
    added = 0
    for text in texts:
        again = next((fact for fact in known.values() if same(fact.text, text)), None)
        if again is not None:
            if again.source_at < said_at:
                newer = {"source_at": said_at, "last_used_at": now}
                await session.execute(update(Fact).where(_mine(key), Fact.id == again.fact_id).values(**newer))
            continue
        row = Fact(
            guild_id=key.guild_id,
            user_id=key.user_id,
            text=codec(session).seal(text),
            source_turn_id=turn_id,
            source_at=said_at,
            created_at=now,
            last_used_at=now,
            private=bool(private),
        )
        session.add(row)
        await session.flush()
        known[row.id] = MemoryFact(row.id, text, turn_id, said_at)
        added += 1
    await _make_room(session, key)
    return added


def _mine(key: DialogKey) -> ColumnElement[bool]:
    return and_(ours(Fact), Fact.guild_id == key.guild_id, Fact.user_id == key.user_id)


def _answered_alone() -> ColumnElement[bool]:
    """Whether the reply to a Turn was shown to its author alone, in a guild."""
    shown = exists().where(ours(Delivery), Delivery.turn_id == Turn.id, Delivery.ephemeral, Delivery.guild_id != 0)
    return shown.correlate(Turn)


async def _read(session: AsyncSession, found: Select[Fact]) -> tuple[MemoryFact, ...]:
    opened = codec(session).open
    return tuple(
        MemoryFact(row.id, opened(row.text), row.source_turn_id, row.source_at, row.edited, row.private)
        for row in await session.scalars(found)
    )


async def _lock(session: AsyncSession, key: DialogKey) -> None:
    """Let changes that count the member's facts follow each other. SQLite has one writer anyway."""
    await session.scalar(select(User.id).where(ours(User), User.id == key.user_id).with_for_update(key_share=True))


async def _make_room(session: AsyncSession, key: DialogKey) -> None:
    """Delete what is above MAX_FACTS: those that no prompt had for the longest time, the member's own words last."""
    count = int(await session.scalar(select(func.count(Fact.id)).where(_mine(key))) or 0)
    if count > MAX_FACTS:
        least = select(Fact.id).where(_mine(key)).order_by(Fact.edited, Fact.last_used_at, Fact.id)
        await session.execute(
            delete(Fact)
            .where(ours(Fact), Fact.id.in_(least.limit(count - MAX_FACTS)))
            .execution_options(synchronize_session=False)
        )
