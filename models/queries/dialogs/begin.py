"""What every begin transaction does, for a new turn (turns.py) and for a regeneration (variants.py).

First `admit`: read the settings, refuse a duplicate, a blocked member or a used-up quota. Last `turn_snapshot`: read
what the prompt is built from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import bindparam, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.errors import DuplicateInteraction
from models.queries.common import (
    attempt_number,
    codec,
    ensure_guild,
    ensure_user,
    insert_if_absent,
    is_open,
    key_values,
    matches_key,
    matches_key_values,
    rows_of,
)
from models.queries.dialogs.speakers import speaker_of
from models.queries.memory.facts import facts_of
from models.queries.memory.summaries import summary_of
from models.queries.tenants.persona_assignments import effective_persona
from models.queries.tenants.policy import enforce_policy, load_policy
from models.queries.tenants.profiles import persona_in_profile
from models.queries.tenants.scenes import scene_of
from models.tables import Delivery, DeliveryMessage, Dialog, OptOut, ProcessedInteraction, Turn, TurnFile
from models.types import (
    UNNAMED_SPEAKER,
    DialogKey,
    DialogSettings,
    FileKind,
    MemoryFact,
    Pair,
    PersonaScope,
    StoredFile,
    Summary,
    TurnSnapshot,
)

_MAX_SPOKEN = 200
_MAX_IDS = 500  # in one statement


async def admit(
    session: AsyncSession,
    *,
    key: DialogKey,
    limit: int,
    interaction_id: int | None,
    role_turns: int | None,
    now: datetime,
) -> DialogSettings:
    """Return the settings of this key's dialog, and record the interaction as processed.

    `limit`: the operator's max_chat_logs, in pairs. `role_turns`: the daily quota of the member's role, which replaces
    the guild's. Raises DuplicateInteraction, MemberBlocked or QuotaExceeded.
    """
    policy = await load_policy(session, key=key, limit=limit, now=now)
    if interaction_id is not None:
        await _mark_processed(session, interaction_id, now)
    enforce_policy(policy, role_turns=role_turns, now=now)
    return policy.settings


async def turn_snapshot(
    session: AsyncSession,
    *,
    key: DialogKey,
    turn_id: int,
    dialog_id: int,
    text: str,
    settings: DialogSettings,
    persona_scope: PersonaScope,
    memory: bool,
    before_turn: int | None = None,
) -> TurnSnapshot:
    """Read the persona, the history and (with `memory`) what is remembered of it, for the prompt of a turn.

    `before_turn` excludes that turn and later ones from the history.
    """
    limit = settings.max_chat_logs or 0
    history = await pairs_before(session, dialog_id, before_turn, limit)
    if key.shared and len(history) < limit:
        history = (*await _pair_above(session, key, dialog_id), *history)
    persona = await effective_persona(session, key=key, scope=persona_scope)
    scene = await scene_of(session, key=key, scope=persona_scope)
    profile_id = await persona_in_profile(session, key=key) if persona_scope.face == "profile" else None
    summary: Summary | None = None
    facts: tuple[MemoryFact, ...] = ()
    if memory and settings.summaries:
        summary = await summary_of(session, key=key, dialog_id=dialog_id, before_turn=before_turn)
    if memory and settings.memory:
        facts = await facts_of(session, key=key, shared=key.shared)
    snapshot = TurnSnapshot(turn_id, dialog_id, text, persona, history, settings, summary=summary, facts=facts)
    return replace(snapshot, scene=scene, profile_id=profile_id)


_HAS_FILES = exists().where(TurnFile.turn_id == Turn.id).correlate(Turn).label("has_files")
_PAIRS = select(
    Turn.id, Turn.user_text, Turn.reply, Turn.author_name, Turn.speaker_id, Turn.speaker_name, _HAS_FILES
).where(Turn.status == "done")
_LAST_PAIRS = _PAIRS.where(Turn.dialog_id == bindparam("dialog_id")).order_by(Turn.id.desc()).limit(bindparam("limit"))
_PAIRS_BEFORE = _LAST_PAIRS.where(Turn.id < bindparam("before_turn"))


async def pairs_before(session: AsyncSession, dialog_id: int, turn_id: int | None, limit: int) -> tuple[Pair, ...]:
    """Return the last `limit` finished pairs of a dialog, oldest first; only those before `turn_id` if it is given.

    The caller must have found the dialog by its key.
    """
    if limit <= 0:
        return ()
    which: dict[str, Any] = {"dialog_id": dialog_id, "limit": limit}
    if turn_id is None:
        rows = (await rows_of(session, _LAST_PAIRS, which)).all()
    else:
        rows = (await rows_of(session, _PAIRS_BEFORE, {**which, "before_turn": turn_id})).all()
    files = await files_of(session, turn_ids=[row.id for row in rows if row.has_files])
    text = codec(session)
    newest_first = [
        Pair(
            row.id,
            text.open(row.user_text),
            text.open(row.reply),
            None if row.author_name is None else text.open(row.author_name),
            files.get(row.id, ()),
            speaker_of(session, row.speaker_id, row.speaker_name),
        )
        for row in rows
    ]
    return tuple(reversed(newest_first))


_EARLIER = exists().where(matches_key_values(), Dialog.id < bindparam("dialog_id"))
_PAIR_ABOVE = (
    _PAIRS.join(Delivery, Delivery.turn_id == Turn.id)
    .join(DeliveryMessage, DeliveryMessage.delivery_id == Delivery.id)
    .where(DeliveryMessage.message_id == bindparam("key_channel_id"), Delivery.guild_id == bindparam("key_guild_id"))
    .where(~Delivery.ephemeral, ~_EARLIER)
    .limit(1)
)


async def _pair_above(session: AsyncSession, key: DialogKey, dialog_id: int) -> tuple[Pair, ...]:
    """Return the pair under whose reply the key's thread was started, for the first dialog of the thread.

    Such a thread has the id of the message that shows the reply. The pair stays where it is, and is forgotten there.
    """
    row = (await rows_of(session, _PAIR_ABOVE, {**key_values(key), "dialog_id": dialog_id})).first()
    if row is None:
        return ()
    text = codec(session)
    author = UNNAMED_SPEAKER if row.author_name is None else text.open(row.author_name)
    files = await files_of(session, turn_ids=[row.id])
    speaker = speaker_of(session, row.speaker_id, row.speaker_name)
    return (Pair(row.id, text.open(row.user_text), text.open(row.reply), author, files.get(row.id, ()), speaker),)


_NAMES = (
    select(Turn.author_id, Turn.author_name)
    .join(Dialog)
    .where(matches_key_values(), Turn.status == "done", Turn.author_name.is_not(None))
    .order_by(Turn.id.desc())
    .limit(_MAX_SPOKEN)
)
_NAMES_IN_OPEN = _NAMES.where(is_open())
_NAMES_IN_DIALOG = _NAMES.where(Dialog.id == bindparam("dialog_id"))


async def names_in_dialog(session: AsyncSession, *, key: DialogKey, dialog_id: int | None = None) -> dict[int, str]:
    """Return the speakers of a dialog's last _MAX_SPOKEN pairs, with the names that the model read last.

    By default of the open one.
    """
    if dialog_id is None:
        rows = await rows_of(session, _NAMES_IN_OPEN, key_values(key))
    else:
        rows = await rows_of(session, _NAMES_IN_DIALOG, {**key_values(key), "dialog_id": dialog_id})
    text = codec(session)
    names: dict[int, str] = {}
    for author_id, name in rows:
        if author_id is not None and name is not None and author_id not in names:
            names[author_id] = text.open(name)
    return names


async def files_of(session: AsyncSession, *, turn_ids: Sequence[int]) -> dict[int, tuple[StoredFile, ...]]:
    """Return the files of these turns, by turn id. The caller must have found the turns by their key."""
    text = codec(session)
    found: dict[int, tuple[StoredFile, ...]] = {}
    for start in range(0, len(turn_ids), _MAX_IDS):
        rows = await session.scalars(
            select(TurnFile)
            .where(TurnFile.turn_id.in_(turn_ids[start : start + _MAX_IDS]))
            .order_by(TurnFile.turn_id, TurnFile.position)
        )
        for row in rows:
            kind: FileKind = next(each for each in get_args(FileKind) if each == row.kind)
            file = StoredFile(text.open(row.name), text.open(row.content), row.note or "", kind, row.author_id)
            found[row.turn_id] = (*found.get(row.turn_id, ()), file)
    return found


async def add_files(session: AsyncSession, turn_id: int, files: Sequence[StoredFile]) -> None:
    """Store the files of a new turn, but nothing that someone wrote who opted out."""
    authors = {file.author_id for file in files if file.author_id is not None}
    opted_out: set[int] = set()
    if authors:
        opted_out = set(await session.scalars(select(OptOut.user_id).where(OptOut.user_id.in_(authors))))
    text = codec(session)
    session.add_all(
        TurnFile(
            turn_id=turn_id,
            position=position,
            name=text.seal(file.name),
            content=text.seal(file.content),
            note=file.note or None,
            kind=file.kind,
            author_id=file.author_id,
        )
        for position, file in enumerate(files)
        if file.author_id not in opted_out
    )


_TOUCH = update(Dialog).where(matches_key_values(), is_open()).returning(Dialog.id)


async def open_dialog(session: AsyncSession, *, key: DialogKey, now: datetime) -> int:
    """Return the id of the key's open dialog, created if needed. Its row stays locked until the transaction ends."""
    touched = {**key_values(key), "last_active_at": now}
    dialog_id = (await rows_of(session, _TOUCH, touched)).scalar()
    if dialog_id is None:
        await ensure_guild(session, key.guild_id, now)
        await ensure_user(session, key.owner_id, now)
    # Again, and not from the insert: another process may have opened a dialog at the same moment, or parked the one
    # that this statement waited for. Each time that happens, another transaction has committed.
    while dialog_id is None:
        await insert_if_absent(
            session,
            Dialog,
            guild_id=key.guild_id,
            user_id=key.owner_id,
            channel_id=key.channel_id,
            opened_at=now,
            last_active_at=now,
        )
        dialog_id = (await rows_of(session, _TOUCH, touched)).scalar()
    if key.shared:
        await ensure_user(session, key.user_id, now)
    return dialog_id


async def finished_turn(session: AsyncSession, *, key: DialogKey, turn_id: int, parked: bool = False) -> Turn | None:
    """Return a finished turn of the key's open dialog, its row locked. `parked`: or of a parked one."""
    turn: Turn | None = await session.scalar(
        select(Turn)
        .join(Dialog)
        .where(matches_key(key), Dialog.ended_at.is_(None) if parked else is_open())
        .where(Turn.id == turn_id, Turn.status == "done")
        .with_for_update(of=Turn)
        .execution_options(populate_existing=True)
    )
    return turn


async def _mark_processed(session: AsyncSession, interaction_id: int, now: datetime) -> None:
    """Record an interaction or message id. Raises DuplicateInteraction if it was recorded before."""
    if await insert_if_absent(session, ProcessedInteraction, interaction_id=interaction_id, processed_at=now):
        return
    if attempt_number(session) > 1:
        # Our first COMMIT may have succeeded although its answer was lost; then the row is ours, with the same `now`.
        processed_at = await session.scalar(
            select(ProcessedInteraction.processed_at).where(ProcessedInteraction.interaction_id == interaction_id)
        )
        if processed_at == now:
            return
    raise DuplicateInteraction(interaction_id)
