"""What every begin transaction does, for a new turn (new_turn.py) and for a regeneration (variants.py).

First `admit`: read the settings, refuse a duplicate, a blocked member or a used-up quota. Then `open_dialog` or
`finished_turn`: lock the row that the reply belongs to. Last `turn_snapshot`: read what the prompt is built from.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import bindparam, case, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.base import UTCDateTime
from models.errors import DuplicateInteraction
from models.queries.common import (
    attempt_number,
    change,
    ensure_guild,
    ensure_user,
    insert_if_absent,
    is_open,
    key_values,
    matches_key,
    matches_key_values,
    rows_of,
)
from models.queries.dialogs.pairs import pair_above, pairs_before
from models.queries.memory.facts import facts_of
from models.queries.memory.summaries import summary_of
from models.queries.tenants.persona_assignments import effective_persona
from models.queries.tenants.policy import enforce_policy, load_policy
from models.queries.tenants.profiles import persona_in_profile
from models.queries.tenants.scenes import scene_of
from models.tables import Dialog, ProcessedInteraction, Turn
from models.types import DialogKey, DialogSettings, MemoryFact, PersonaScope, ReplyLimits, Summary, TurnSnapshot


async def admit(
    session: AsyncSession,
    *,
    key: DialogKey,
    limit: int,
    interaction_id: int | None,
    limits: ReplyLimits | None,
    now: datetime,
) -> DialogSettings:
    """Return the settings of this key's dialog, and record the interaction as processed.

    `limit`: the operator's max_chat_logs, in pairs. `limits`: the numbers that apply to the message, if they are known;
    else those that the guild has stored for a member. Raises DuplicateInteraction, MemberBlocked or QuotaExceeded.
    """
    policy = await load_policy(session, key=key, limit=limit, now=now)
    if interaction_id is not None:
        await _mark_processed(session, interaction_id, now)
    await enforce_policy(session, policy=policy, key=key, limits=limits, now=now)
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
        history = (*await pair_above(session, key=key, dialog_id=dialog_id), *history)
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


_AT_REST = (
    update(Dialog)
    .where(matches_key_values(), is_open(), Dialog.last_active_at < bindparam("rests_since"))
    .where(~exists().where(Turn.dialog_id == Dialog.id, Turn.status == "pending"))
    .values(
        ended_at=case((Dialog.name.is_(None), bindparam("at", type_=UTCDateTime)), else_=None),
        end_reason=case((Dialog.name.is_(None), "idle"), else_=None),
        parked_at=case((Dialog.name.is_(None), None), else_=bindparam("at", type_=UTCDateTime)),
    )
)


async def end_if_idle(session: AsyncSession, *, key: DialogKey, idle_time: timedelta, now: datetime) -> None:
    """End the key's open dialog if nobody has spoken in it for this long, or park it if it has a name.

    As the cleanup does (deletion/retention.py), which runs too rarely for a guild that chose a short time.
    """
    await change(session, _AT_REST, {**key_values(key), "rests_since": now - idle_time, "at": now})


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
