"""Personas of a guild: the list, and one with its versions and the differences between two of them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.responses import Response

from bot.admin.context import PAGE, SEALED, Visit
from bot.admin.views.differences import differences
from bot.storage import translate_database_errors
from models.errors import WrongEncryptionKey
from models.queries.operator.conversation import opted_out
from models.queries.operator.lists import guild_row
from models.queries.operator.looks import record_look
from models.queries.operator.personas import persona_row, persona_rows, versions_of
from models.types import PersonaVersionInfo


async def personas_page(visit: Visit) -> Response:
    """The personas of a guild and of its members, by id."""
    guild_id, after = visit.number("guild"), visit.cursor("after")
    with translate_database_errors():
        async with visit.database.read() as session:
            if await guild_row(session, guild_id=guild_id) is None:
                raise HTTPException(404)
            rows = await persona_rows(session, guild_id=guild_id, after=after or 0, limit=PAGE + 1)
    title = f"Personas of guild {guild_id}" if guild_id else "Personas in direct messages"
    return visit.page(
        "lists/personas.html", title, guild=guild_id, rows=rows[:PAGE], more=len(rows) > PAGE, first=not after
    )


async def persona_page(visit: Visit) -> Response:
    """One persona. A member's own is theirs: a look at it is recorded, and not had after an opt-out."""
    guild_id, persona_id = visit.number("guild"), visit.number("persona")
    with translate_database_errors():
        async with visit.database.read() as session:
            row = await persona_row(session, guild_id=guild_id, persona_id=persona_id)
            if row is None:
                raise HTTPException(404)
            silent = row.owner_id is not None and bool(await opted_out(session, user_ids={row.owner_id}))
        if silent:
            text = "Its member has opted out. What they wrote before is theirs, and is not shown here."
            return visit.page("problem.html", f"Persona {persona_id}", status=403, problem=text)
        if row.owner_id is not None:
            owner_id = row.owner_id
            await visit.database.run(
                lambda session: record_look(
                    session,
                    guild_id=guild_id,
                    member_id=owner_id,
                    action="operator.persona",
                    details={"persona": persona_id},
                    now=datetime.now(UTC),
                )
            )
        try:
            async with visit.database.read() as session:
                versions = await versions_of(session, row=row)
        except WrongEncryptionKey:
            return visit.page("problem.html", f"Persona {persona_id}", status=503, problem=SEALED)
    by_number = {each.version: each for each in versions}
    newest = versions[0].version if versions else 0
    new = by_number.get(visit.cursor("to") or newest)
    older = [each.version for each in versions if new is not None and each.version < new.version]
    old = by_number.get(visit.cursor("from") or (older[0] if older else 0))
    lines = []
    if new is not None:
        lines = await asyncio.to_thread(differences, "" if old is None else _text(old), _text(new))
    return visit.page(
        "details/persona.html", f"Persona {persona_id}", row=row, versions=versions, old=old, new=new, lines=lines
    )


def _text(version: PersonaVersionInfo) -> str:
    """What is compared: the name, the prompt, and the card by lines."""
    parts = [f"Name: {version.name}", version.prompt]
    if version.card is not None:
        parts.append(f"Card: {_pretty(version.card)}")
    return "\n".join(parts)


def _pretty(card: str) -> str:
    try:
        return json.dumps(json.loads(card), indent=2, ensure_ascii=False)
    except ValueError:
        return card
