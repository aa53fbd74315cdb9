"""The audit log: of the application, or of one guild."""

from __future__ import annotations

from starlette.responses import Response

from bot.admin.context import PAGE, Visit
from bot.storage import translate_database_errors
from models.queries import audit_log
from models.queries.operator.looks import audit_rows
from models.types import DialogKey


async def audit_page(visit: Visit) -> Response:
    """The entries, newest first; those of one guild and of one person or kind of action, if they are given."""
    before, guild_id, member_id = visit.cursor("before"), visit.cursor("guild"), visit.cursor("member")
    actions = visit.fields.get("action", "").strip()
    with translate_database_errors():
        async with visit.database.read() as session:
            if guild_id is None:
                rows = await audit_rows(session, before=before, limit=PAGE + 1)
            else:
                rows = await audit_log(
                    session,
                    key=DialogKey(guild_id, 0),
                    actions=actions,
                    member_id=member_id,
                    before=before,
                    limit=PAGE + 1,
                )
    return visit.page(
        "lists/audit.html",
        "Audit log" if guild_id is None else f"Audit log of guild {guild_id}",
        rows=rows[:PAGE],
        more=len(rows) > PAGE,
        first=before is None,
        guild=guild_id,
        member=member_id,
        action=actions,
    )
