"""A new turn: begin it, finish or fail it, read the history.

bot/chat/turns/turn_log.py runs them in two transactions: `begin_turn` before the reply is generated (the begin
transaction), `finish_turn` or `fail_turn` after it (the finish transaction). Every statement filters by the whole
key, so the turn id of another tenant matches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, Literal

from sqlalchemy import and_, bindparam, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import TypedReturnsRows

from models.errors import DuplicateInteraction, TurnGone
from models.queries.common import (
    attempt_number,
    change,
    codec,
    dialect,
    insert,
    is_open,
    key_values,
    matches_key,
    matches_key_values,
    rows_of,
)
from models.queries.dialogs.begin import (
    add_files,
    admit,
    files_of,
    finished_turn,
    names_in_dialog,
    open_dialog,
    pairs_before,
    turn_snapshot,
)
from models.queries.dialogs.prompts import record_prompt
from models.queries.dialogs.speakers import speaker_of, speaker_values
from models.queries.memory.summaries import forget_memory_of_turns
from models.queries.replies.deliveries import begin_delivery, close_deliveries, ready_delivery, retract_deliveries
from models.queries.replies.delivery_messages import speaker_of_message
from models.queries.tenants.persona_assignments import effective_persona
from models.queries.tenants.policy import add_opted_out_usage, add_usage, load_policy
from models.queries.tenants.profiles import persona_in_profile
from models.queries.tenants.scenes import scene_of
from models.tables import Dialog, Turn
from models.types import (
    NO_PLACE,
    DialogKey,
    Pair,
    PersonaScope,
    Place,
    SceneInfo,
    Speaker,
    StoredFile,
    TurnResult,
    TurnSnapshot,
)

_UNFINISHED = and_(
    Turn.id == bindparam("turn"),
    or_(Turn.status == "pending", and_(Turn.status == "interrupted", Turn.owner == bindparam("this_process"))),
)
"""A turn that still waits for the reply that this process writes.

Another process may have marked it interrupted, because no heartbeat of this one came for a minute; no other process
works on it.
"""
# A parked dialog is as good as the one in use: its member changed to another one while this reply was written.
_NOT_ENDED = select(Dialog.id).where(matches_key_values(), Dialog.ended_at.is_(None))
_FINISH = (
    update(Turn)
    .where(_UNFINISHED, Turn.dialog_id.in_(_NOT_ENDED))
    .values(status="done")
    .returning(Turn.dialog_id, Turn.replaces_id)
)
_FAIL = (
    update(Turn)
    .where(_UNFINISHED, Turn.dialog_id.in_(select(Dialog.id).where(matches_key_values())))
    .returning(Turn.id)
)
_TOUCH = update(Dialog).where(Dialog.id == bindparam("dialog"))


@cache
def _add_turn(on: str) -> TypedReturnsRows[int]:
    return insert(on, Turn).on_conflict_do_nothing(index_elements=["interaction_id"]).returning(Turn.id)


async def begin_turn(
    session: AsyncSession,
    *,
    key: DialogKey,
    text: str,
    limit: int,
    interaction_id: int | None = None,
    role_turns: int | None = None,
    author: str | None = None,
    name_apart: Callable[[str, str | None, Collection[str]], str] = lambda name, own, others: name,
    files: tuple[StoredFile, ...] = (),
    files_note: str = "",
    place: Place | None = None,
    replaces: int | None = None,
    persona_scope: PersonaScope = NO_PLACE,
    memory: bool = False,
    replied_to: int | None = None,
    now: datetime,
) -> TurnSnapshot:
    """Store a pending turn in the key's dialog, opening one if none is open; return what its prompt is built from.

    `limit`: the operator's max_chat_logs, which the guild's and the member's settings may change. `role_turns`: the
    daily quota of the member's role. `author`: the name that the model reads, in a shared dialog; `name_apart` makes it
    another one than those of others there, given the member's own last one. `files_note`: what the member is told of
    the files. `place`: where the reply is shown. `persona_scope`: where the message was written. `replaces`: the turn
    which this one replaces, with all later ones, once its reply is stored; if this one has no files, it gets those of
    that turn. `memory`: whether the operator lets the bot remember. `replied_to`: the message on Discord that it is a
    reply to. For a member who opted out nothing but the interaction's id is stored. Raises DuplicateInteraction,
    MemberBlocked, QuotaExceeded, or TurnGone if the turn to replace is gone.
    """
    settings = await admit(session, key=key, limit=limit, interaction_id=interaction_id, role_turns=role_turns, now=now)
    if author is not None:
        names = await names_in_dialog(session, key=key)
        own = names.pop(key.user_id, None)
        author = name_apart(author, own, names.values())
    if settings.opted_out:
        persona = await effective_persona(session, key=key, scope=persona_scope)
        # What the others said in a shared dialog is read all the same; nothing is added to it.
        past = await history(session, key=key, limit=settings.max_chat_logs or 0) if key.shared else ()
        snapshot = TurnSnapshot(0, 0, text, persona, past, settings, author=author, files=files, files_note=files_note)
        scene = await scene_of(session, key=key, scope=persona_scope)
        profile_id = await persona_in_profile(session, key=key) if persona_scope.face == "profile" else None
        addressed = await _addressed(session, key, scene, replied_to)
        return replace(snapshot, scene=scene, profile_id=profile_id, addressed=addressed)
    speaker: Speaker | None = None
    if replaces is not None:
        replaced = await finished_turn(session, key=key, turn_id=replaces)
        if replaced is None:
            raise TurnGone()
        # An admin who edits it does not speak for themselves.
        speaker = speaker_of(session, replaced.speaker_id, replaced.speaker_name)
        author = author if replaced.author_name is None else codec(session).open(replaced.author_name)
        if not files:  # as on Discord, an edit of the words leaves the files where they are
            files = (await files_of(session, turn_ids=[replaces])).get(replaces, ())
            files_note = "" if replaced.files_note is None else codec(session).open(replaced.files_note)
    dialog_id = await open_dialog(session, key=key, now=now)
    new_turn = {
        "dialog_id": dialog_id,
        "interaction_id": interaction_id,
        "status": "pending",
        "user_text": codec(session).seal(text),
        "owner": session.info.get("owner"),
        "created_at": now,
        "author_id": key.user_id,
        "author_name": None if author is None else codec(session).seal(author),
        "replaces_id": replaces,
        "files_note": codec(session).seal(files_note) if files_note else None,
    }
    turn_id = (await rows_of(session, _add_turn(dialect(session)), new_turn)).scalar()
    if turn_id is None:  # a turn with this interaction id exists
        turn_id = await _committed_turn(session, dialog_id, interaction_id, now)
    else:
        await add_files(session, turn_id, files)
    delivery_id = 0 if place is None else await begin_delivery(session, key=key, turn_id=turn_id, place=place, now=now)
    snapshot = await turn_snapshot(
        session,
        key=key,
        turn_id=turn_id,
        dialog_id=dialog_id,
        text=text,
        settings=settings,
        persona_scope=persona_scope,
        memory=memory,
        before_turn=turn_id if replaces is None else replaces,
    )
    return replace(
        snapshot,
        author=author,
        files=files,
        files_note=files_note,
        delivery_id=delivery_id,
        speaker=speaker,
        addressed=await _addressed(session, key, snapshot.scene, replied_to),
    )


async def _addressed(
    session: AsyncSession, key: DialogKey, scene: SceneInfo | None, message_id: int | None
) -> Speaker | None:
    """Return the character of a scene whose reply this message shows."""
    if scene is None or message_id is None:
        return None
    return await speaker_of_message(session, key=key, message_id=message_id)


async def finish_turn(
    session: AsyncSession, *, key: DialogKey, turn_id: int, result: TurnResult, now: datetime
) -> bool:
    """Store the reply of a pending turn. True if the pair is in the history of the open dialog.

    A turn that another process ended, because it took this one for dead, is stored all the same. False if /reset ended
    the dialog first, the turn was deleted or ended otherwise, or the member opted out (turn id 0).
    Repeated after a lost connection it gives the same answer, whether or not the first COMMIT succeeded.
    """
    if turn_id == 0:
        await _count_opted_out(session, key, result, now)
        return False
    reply = {
        "reply": codec(session).seal(result.reply),
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "finish_reason": result.finish_reason,
        "first_token_ms": result.first_token_ms,
        "total_ms": result.total_ms,
        "finished_at": now,
        **speaker_values(session, result.speaker),
    }
    row = await rows_of(session, _FINISH, {**_unfinished_turn(session, key, turn_id), **reply})
    if (finished := row.one_or_none()) is not None:
        dialog_id, replaces_id = finished
        if replaces_id is not None:
            replaced = (
                Turn.dialog_id == dialog_id, Turn.id >= replaces_id, Turn.id < turn_id, Turn.status != "pending",
            )  # fmt: skip
            await retract_deliveries(
                session, turns=select(Turn.id).where(*replaced), kept_for=turn_id, text=result.retraction
            )
            gone = await session.scalars(delete(Turn).where(*replaced).returning(Turn.id))
            await forget_memory_of_turns(session, [(dialog_id, each) for each in gone])
        await ready_delivery(session, key=key, turn_id=turn_id, messages=result.messages)
        await change(session, _TOUCH, {"dialog": dialog_id, "last_active_at": now})
        await record_prompt(session, key=key, turn_id=turn_id, record=result.prompt, now=now)
        await add_usage(
            session,
            key=key,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            now=now,
            new_turn=True,
        )
        return True
    await fail_turn(session, key=key, turn_id=turn_id, status="interrupted", error_id=None, now=now)
    stored = await session.scalar(
        select(Turn.reply).join(Dialog).where(matches_key(key), Turn.id == turn_id, Turn.status == "done")
    )
    return stored is not None and codec(session).open(stored) == result.reply


async def fail_turn(
    session: AsyncSession,
    *,
    key: DialogKey,
    turn_id: int,
    status: Literal["failed", "interrupted"],
    error_id: str | None,
    now: datetime,
) -> None:
    """End a pending turn without a reply, or one that another process ended. Any other turn stays as it is."""
    end = {"status": status, "error_id": error_id, "finished_at": now}
    ended = (await rows_of(session, _FAIL, {**_unfinished_turn(session, key, turn_id), **end})).scalar()
    if ended is not None:  # else another process writes the reply
        await close_deliveries(session, key=key, turn_id=turn_id)


async def history(session: AsyncSession, *, key: DialogKey, limit: int) -> tuple[Pair, ...]:
    """Return the last `limit` pairs of the key's open dialog, oldest first (/history and the terminal)."""
    dialog_id = await session.scalar(select(Dialog.id).where(matches_key(key), is_open()))
    return () if dialog_id is None else await pairs_before(session, dialog_id, None, limit)


def _unfinished_turn(session: AsyncSession, key: DialogKey, turn_id: int) -> dict[str, Any]:
    """Return the parameters of `_UNFINISHED`."""
    return {**key_values(key), "turn": turn_id, "this_process": session.info.get("owner")}


async def _count_opted_out(session: AsyncSession, key: DialogKey, result: TurnResult, now: datetime) -> None:
    """Count the usage of a member who opted out, if the guild has quotas."""
    if (await load_policy(session, key=key, now=now)).records_usage:
        await add_opted_out_usage(
            session,
            key=key,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            now=now,
        )


async def _committed_turn(session: AsyncSession, dialog_id: int, interaction_id: int | None, now: datetime) -> int:
    """Return the turn that our first attempt stored, if its COMMIT succeeded although its answer was lost.

    Raises DuplicateInteraction if the turn is not ours.
    """
    if attempt_number(session) > 1:
        turn_id = await session.scalar(
            select(Turn.id).where(
                Turn.interaction_id == interaction_id,
                Turn.dialog_id == dialog_id,
                Turn.status == "pending",
                Turn.owner == session.info.get("owner"),
                Turn.created_at == now,
            )
        )
        if turn_id is not None:
            return turn_id
    raise DuplicateInteraction(interaction_id or 0)
