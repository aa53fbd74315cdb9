"""The begin transaction of a new turn: store it as pending, and read what its prompt is built from.

bot/chat/turns/turn_log.py runs it before the reply is generated; finish.py is what follows. What a regeneration does
too is in begin.py. Every statement filters by the whole key, so the turn id of another tenant matches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from functools import cache

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import TypedReturnsRows

from models.errors import DuplicateInteraction, TurnGone
from models.queries.common import attempt_number, codec, dialect, insert, rows_of
from models.queries.dialogs.begin import admit, end_if_idle, finished_turn, open_dialog, turn_snapshot
from models.queries.dialogs.pairs import history, names_in_dialog
from models.queries.dialogs.speakers import speaker_of
from models.queries.dialogs.turn_files import add_files, files_of
from models.queries.replies.deliveries import begin_delivery
from models.queries.replies.delivery_messages import speaker_of_message
from models.queries.tenants.persona_assignments import effective_persona
from models.queries.tenants.profiles import persona_in_profile
from models.queries.tenants.scenes import scene_of
from models.tables import Turn
from models.types import (
    NO_PLACE,
    DialogKey,
    DialogSettings,
    PersonaScope,
    Place,
    ReplyLimits,
    SceneInfo,
    Speaker,
    StoredFile,
    TurnSnapshot,
)


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
    limits: ReplyLimits | None = None,
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

    `limit`: the operator's max_chat_logs, which the guild's and the member's settings may change. `limits`: the
    numbers that apply to the message. `author`: the name that the model reads, in a shared dialog; `name_apart` makes
    it another one than those of others there, given the member's own last one. `files_note`: what the member is told of
    the files. `place`: where the reply is shown. `persona_scope`: where the message was written. `replaces`: the turn
    which this one replaces, with all later ones, once its reply is stored; if this one has no files, it gets those of
    that turn. `memory`: whether the operator lets the bot remember. `replied_to`: the message on Discord that it is a
    reply to. For a member who opted out nothing but the interaction's id is stored. Raises DuplicateInteraction,
    MemberBlocked, QuotaExceeded, or TurnGone if the turn to replace is gone.
    """
    settings = await admit(session, key=key, limit=limit, interaction_id=interaction_id, limits=limits, now=now)
    if author is not None:
        names = await names_in_dialog(session, key=key)
        own = names.pop(key.user_id, None)
        author = name_apart(author, own, names.values())
    if settings.opted_out:
        snapshot = await _unstored(session, key=key, text=text, settings=settings, persona_scope=persona_scope)
        addressed = await _addressed(session, key, snapshot.scene, replied_to)
        return replace(snapshot, author=author, files=files, files_note=files_note, addressed=addressed)
    speaker: Speaker | None = None
    if replaces is None and settings.session_ttl is not None:
        await end_if_idle(session, key=key, idle_time=settings.session_ttl, now=now)
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


async def _unstored(
    session: AsyncSession, *, key: DialogKey, text: str, settings: DialogSettings, persona_scope: PersonaScope
) -> TurnSnapshot:
    """Return the turn of a member who opted out, for its prompt. Its id is 0."""
    persona = await effective_persona(session, key=key, scope=persona_scope)
    # What the others said in a shared dialog is read all the same; nothing is added to it.
    past = await history(session, key=key, limit=settings.max_chat_logs or 0) if key.shared else ()
    scene = await scene_of(session, key=key, scope=persona_scope)
    profile_id = await persona_in_profile(session, key=key) if persona_scope.face == "profile" else None
    return TurnSnapshot(0, 0, text, persona, past, settings, scene=scene, profile_id=profile_id)


async def _addressed(
    session: AsyncSession, key: DialogKey, scene: SceneInfo | None, message_id: int | None
) -> Speaker | None:
    """Return the character of a scene whose reply this message shows."""
    if scene is None or message_id is None:
        return None
    return await speaker_of_message(session, key=key, message_id=message_id)


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
