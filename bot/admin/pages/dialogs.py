"""Dialogs: the lists, one as a conversation, its end; and the prompt of a turn as it was sent.

Nothing of what members said is read before the look is in the audit log. What is kept private, was deleted by an admin
or was said by somebody who opted out is not shown just by opening a page.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starlette.exceptions import HTTPException
from starlette.responses import Response

from bot.admin.context import PAGE, SEALED, Visit
from bot.chat.prompts.rebuild import rebuild
from bot.engine_client.messages import text_of
from bot.storage import translate_database_errors
from models.errors import WrongEncryptionKey
from models.queries.dialogs.prompt_parts import prompt_parts
from models.queries.operator.conversation import (
    dialog_of_turn,
    end_dialog_by_operator,
    is_private,
    silent_speakers,
    turn_views,
)
from models.queries.operator.lists import DialogState, dialog_row, dialog_rows, guild_dialog_rows, guild_row
from models.queries.operator.looks import record_look
from models.types.operator import DialogRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HIDDEN = "An admin has deleted this conversation. It can be brought back for some minutes, and is not shown."


async def dialogs_page(visit: Visit) -> Response:
    """The dialogs of all guilds: those that go on by their last use, or those that have ended by their end."""
    state: DialogState = "ended" if visit.fields.get("state") == "ended" else "open"
    with translate_database_errors():
        async with visit.database.read() as session:
            rows = await dialog_rows(session, state=state, before=_place(visit), limit=PAGE + 1)
    return _list(visit, "Dialogs", rows, state=state, guild=None)


async def guild_dialogs_page(visit: Visit) -> Response:
    """The dialogs of a guild, by their last use."""
    guild_id = visit.number("guild")
    with translate_database_errors():
        async with visit.database.read() as session:
            if await guild_row(session, guild_id=guild_id) is None:
                raise HTTPException(404)
            rows = await guild_dialog_rows(session, guild_id=guild_id, before=_place(visit), limit=PAGE + 1)
    title = f"Dialogs of guild {guild_id}" if guild_id else "Dialogs in direct messages"
    return _list(visit, title, rows, state="any", guild=guild_id)


async def dialog_page(visit: Visit) -> Response:
    """One dialog as a conversation."""
    guild_id, dialog_id, after = visit.number("guild"), visit.number("dialog"), visit.cursor("after")
    veil, sealed = "", False
    with translate_database_errors():
        async with visit.database.read() as session:
            row = await dialog_row(session, guild_id=guild_id, dialog_id=dialog_id)
            if row is None:
                raise HTTPException(404)
            private = await is_private(session, key=row.key)
        if row.purge_id is not None:
            veil = _HIDDEN
        elif private and visit.fields.get("words") != "shown":
            veil = "private"
        else:
            await _record(visit, row, {"dialog": dialog_id})
        async with visit.database.read() as session:
            given = {"guild_id": guild_id, "dialog_id": dialog_id, "after": after or 0, "limit": PAGE + 1}
            try:
                turns = await turn_views(session, words=not veil, **given)
            except WrongEncryptionKey:
                sealed = True
                turns = await turn_views(session, words=False, **given)
    return visit.page(
        "details/dialog.html",
        f"Dialog {dialog_id}",
        status=200,
        row=row,
        turns=turns[:PAGE],
        more=len(turns) > PAGE,
        first=not after,
        veil=SEALED if sealed else veil,
        private=private,
    )


async def end_dialog(visit: Visit) -> Response:
    """End a dialog: its member begins anew with the next message."""
    guild_id, dialog_id = visit.number("guild"), visit.number("dialog")
    with translate_database_errors():
        done = await visit.database.run(
            lambda session: end_dialog_by_operator(
                session, guild_id=guild_id, dialog_id=dialog_id, now=datetime.now(UTC)
            )
        )
    if not done:
        raise HTTPException(404, "There is no such dialog here that goes on.")
    return visit.to(f"/a/{visit.application_id}/guilds/{guild_id}/dialogs/{dialog_id}?words=hidden")


async def turn_page(visit: Visit) -> Response:
    """The prompt of a turn as it was sent, built again."""
    guild_id, turn_id = visit.number("guild"), visit.number("turn")
    veil = ""
    with translate_database_errors():
        async with visit.database.read() as session:
            dialog_id = await dialog_of_turn(session, guild_id=guild_id, turn_id=turn_id)
            row = None if dialog_id is None else await dialog_row(session, guild_id=guild_id, dialog_id=dialog_id)
            if row is None:
                raise HTTPException(404)
            private = await is_private(session, key=row.key)
        parts = prompt = None
        if row.purge_id is not None:
            veil = _HIDDEN
        elif private and visit.fields.get("words") != "shown":
            veil = "private"
        else:
            await _record(visit, row, {"dialog": row.dialog_id, "turn": turn_id})
            try:
                async with visit.database.read() as session:
                    parts = await prompt_parts(session, turn_id=turn_id)
                    if parts is not None and await silent_speakers(session, parts=parts):
                        veil = "It has words of somebody who has opted out. They are not shown here."
            except WrongEncryptionKey:
                veil = SEALED
        if parts is not None and not veil:
            prompt = await rebuild(parts, visit.admin.settings)
    return visit.page(
        "details/turn.html",
        f"Prompt of turn {turn_id}",
        row=row,
        turn_id=turn_id,
        record=None if parts is None or veil else parts.record,
        newest=parts is None or parts.is_newest_reply,
        prompt=prompt,
        messages=[] if prompt is None else [(each["role"], text_of(each)) for each in prompt.messages],
        veil=veil,
    )


async def _record(visit: Visit, row: DialogRow, details: dict[str, int]) -> None:
    """Write the look into the audit log, in a transaction of its own: without it, nothing is read."""
    await visit.database.run(
        lambda session: record_look(
            session,
            guild_id=row.guild_id,
            member_id=None if row.shared else row.user_id,
            action="operator.read",
            details=details,
            now=datetime.now(UTC),
        )
    )


def _list(visit: Visit, title: str, rows: tuple[DialogRow, ...], *, state: str, guild: int | None) -> Response:
    shown, following = rows[:PAGE], ""
    if len(rows) > PAGE:
        last = shown[-1]
        moment = last.ended_at if state == "ended" and last.ended_at is not None else last.last_active_at
        following = f"{(moment - _EPOCH) // timedelta(microseconds=1)}-{last.dialog_id}"
    first = "before" not in visit.fields
    return visit.page(
        "lists/dialogs.html", title, rows=shown, following=following, state=state, guild=guild, first=first
    )


def _place(visit: Visit) -> tuple[datetime, int] | None:
    """The place in a list by time after which the page begins: microseconds and an id."""
    given = visit.fields.get("before", "")
    if not given:
        return None
    moment, _, dialog_id = given.partition("-")
    if not all(each.isascii() and each.isdecimal() and len(each) <= 18 for each in (moment, dialog_id)):
        raise HTTPException(400, "“before” is no place in the list.")
    try:
        return _EPOCH + timedelta(microseconds=int(moment)), int(dialog_id)
    except OverflowError:
        raise HTTPException(400, "“before” is no place in the list.") from None
