"""The conversations of one key: the one in use, and those that were left for it and can be taken up again.

A conversation is a dialog that has not ended. One at most is in use; the others are parked. Called by
bot/chat/conversations.py, which says what may be done.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import codec, insert, is_open, matches_key
from models.queries.dialogs.begin import open_dialog
from models.queries.dialogs.exchanges import shown_to
from models.queries.privacy.opt_outs import has_opted_out
from models.tables import Dialog, Turn
from models.types import ConversationChange, ConversationInfo, DialogKey

MAX_CONVERSATIONS = 25
"""Of one key. Discord suggests at most 25 values of an option."""


async def conversations(session: AsyncSession, *, key: DialogKey) -> tuple[ConversationInfo, ...]:
    """Return the key's conversations, the one in use first, then the last active."""
    pairs = select(func.count(Turn.id)).where(Turn.dialog_id == Dialog.id, Turn.status == "done").scalar_subquery()
    rows = (
        await session.execute(
            select(Dialog.id, Dialog.name, Dialog.last_active_at, Dialog.parked_at, pairs.label("pairs"))
            .where(matches_key(key), Dialog.ended_at.is_(None))
            .order_by(Dialog.last_active_at.desc(), Dialog.id.desc())
        )
    ).all()
    text = codec(session)
    beginnings = await _beginnings(session, key, [row.id for row in rows if row.name is None])
    found = [
        ConversationInfo(
            dialog_id=row.id,
            name=None if row.name is None else text.open(row.name),
            beginning=beginnings.get(row.id),
            last_active_at=row.last_active_at,
            in_use=row.parked_at is None,
            num_pairs=row.pairs,
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda each: not each.in_use))


async def new_conversation(
    session: AsyncSession, *, key: DialogKey, name: str | None, now: datetime
) -> ConversationChange:
    """Park the conversation in use and begin another one."""
    if await has_opted_out(session, key=key):
        return "opted out"
    current_id = await open_dialog(session, key=key, now=now)
    known = await conversations(session, key=key)
    if name is not None and _taken(known, name, except_for=None):
        return "taken"
    current = next(each for each in known if each.dialog_id == current_id)
    if current.name is None and not await _has_words(session, current_id):
        if name is None:
            return "same"
        await session.execute(update(Dialog).where(Dialog.id == current_id).values(name=codec(session).seal(name)))
        return "done"
    if len(known) >= MAX_CONVERSATIONS:
        return "full"
    await leave_dialog(session, key=key, now=now)
    await session.execute(
        insert(session, Dialog).values(
            guild_id=key.guild_id,
            user_id=key.owner_id,
            channel_id=key.channel_id,
            opened_at=now,
            last_active_at=now,
            name=None if name is None else codec(session).seal(name),
        )
    )
    return "done"


async def switch_conversation(
    session: AsyncSession, *, key: DialogKey, dialog_id: int, now: datetime
) -> ConversationChange:
    """Park the conversation in use and take up this one."""
    await _lock(session, key)
    mine = (matches_key(key), Dialog.id == dialog_id, Dialog.ended_at.is_(None))
    row = (await session.execute(select(Dialog.parked_at).where(*mine))).one_or_none()
    if row is None:
        return "gone"
    if row.parked_at is None:
        return "same"
    await leave_dialog(session, key=key, now=now)
    await session.execute(update(Dialog).where(*mine).values(parked_at=None, last_active_at=now))
    return "done"


async def rename_conversation(
    session: AsyncSession, *, key: DialogKey, dialog_id: int | None, name: str, now: datetime
) -> ConversationChange:
    """Give a conversation a name; without an id, the one in use."""
    if await has_opted_out(session, key=key):
        return "opted out"
    if dialog_id is None:
        dialog_id = await open_dialog(session, key=key, now=now)
    await _lock(session, key)
    if _taken(await conversations(session, key=key), name, except_for=dialog_id):
        return "taken"
    renamed = await session.scalar(
        update(Dialog)
        .where(matches_key(key), Dialog.id == dialog_id, Dialog.ended_at.is_(None))
        .values(name=codec(session).seal(name))
        .returning(Dialog.id)
    )
    return "gone" if renamed is None else "done"


async def delete_conversation(session: AsyncSession, *, key: DialogKey, dialog_id: int) -> ConversationChange:
    """Delete a conversation with all its turns. A reply that is still being generated will not be stored."""
    deleted = await session.scalar(
        delete(Dialog)
        .where(matches_key(key), Dialog.id == dialog_id, Dialog.ended_at.is_(None))
        .returning(Dialog.id)
        .execution_options(synchronize_session=False)
    )
    return "gone" if deleted is None else "done"


async def leave_dialog(session: AsyncSession, *, key: DialogKey, now: datetime, for_name: str | None = None) -> bool:
    """Park the key's open dialog, or delete it if it has no name and nothing was said in it. True if it was parked.

    `for_name`: the stored name of the dialog that takes its place. Two of one name cannot be told apart, so the one
    that is left loses it.
    """
    row = (
        await session.execute(select(Dialog.id, Dialog.name).where(matches_key(key), is_open()).with_for_update())
    ).one_or_none()
    if row is None:
        return False
    name = None if row.name is not None and row.name == for_name else row.name
    if name is None and not await _has_words(session, row.id):
        await session.execute(delete(Dialog).where(Dialog.id == row.id).execution_options(synchronize_session=False))
        return False
    await session.execute(update(Dialog).where(Dialog.id == row.id).values(parked_at=now, name=name))
    return True


async def _lock(session: AsyncSession, key: DialogKey) -> None:
    """Let changes of one key's conversations follow each other. SQLite has one writer anyway."""
    await session.execute(
        select(Dialog.id).where(matches_key(key), Dialog.ended_at.is_(None)).order_by(Dialog.id).with_for_update()
    )


async def _has_words(session: AsyncSession, dialog_id: int) -> bool:
    """Whether something was said in a dialog, or is being answered."""
    said: ColumnElement[bool] = exists().where(Turn.dialog_id == dialog_id, Turn.status.in_(("done", "pending")))
    return bool(await session.scalar(select(said)))


async def _beginnings(session: AsyncSession, key: DialogKey, dialog_ids: list[int]) -> dict[int, str]:
    """The first thing that was said in each of these dialogs of the key."""
    if not dialog_ids:
        return {}
    first = (
        select(func.min(Turn.id))
        .where(Turn.dialog_id.in_(dialog_ids), Turn.status == "done", shown_to(key))
        .group_by(Turn.dialog_id)
    )
    rows = await session.execute(select(Turn.dialog_id, Turn.user_text).where(Turn.id.in_(first)))
    return {row.dialog_id: codec(session).open(row.user_text) for row in rows}


def _taken(known: tuple[ConversationInfo, ...], name: str, *, except_for: int | None) -> bool:
    wanted = name.casefold()
    return any(
        each.name is not None and each.name.casefold() == wanted for each in known if each.dialog_id != except_for
    )
