"""Search in what was said: a bounded time a request, newest first, and further back with the next one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from starlette.exceptions import HTTPException
from starlette.responses import Response

from bot.admin.context import SEALED, Visit
from bot.storage import translate_database_errors
from models.errors import WrongEncryptionKey
from models.queries.operator.looks import record_look
from models.queries.operator.search import folded, newest_turn_id, search_piece
from models.types.operator import SearchHit, SearchScope

SECONDS = 1.5
"""How long a request searches."""
MOST_HITS = 50
_AROUND = 90
"""Characters that are shown on both sides of a word."""
_MAX_WORDS = 10


@dataclass(frozen=True, slots=True)
class _Found:
    hits: list[SearchHit]
    before: int
    num_read: int


async def search_page(visit: Visit) -> Response:
    """The form, and what was found. Each guild whose conversations are shown gets an entry in its audit log."""
    query = visit.fields.get("q", "").strip()
    words = tuple(dict.fromkeys(folded(query).split()))
    scope = SearchScope(visit.cursor("guild"), visit.cursor("member"), visit.fields.get("private") == "yes")
    if len(words) > _MAX_WORDS:
        raise HTTPException(400, f"A search has at most {_MAX_WORDS} words.")
    found, problem = None, ""
    if words:
        with translate_database_errors():
            try:
                found = await _search(visit, words, scope, visit.cursor("before"))
            except WrongEncryptionKey:
                problem = SEALED
            else:
                await _record(visit, found.hits)
    hits = [] if found is None else found.hits
    shown = [(hit, excerpt(hit.user_text, words), excerpt(hit.reply, words)) for hit in hits]
    return visit.page("search.html", "Search", query=query, scope=scope, found=found, shown=shown, problem=problem)


async def _search(visit: Visit, words: tuple[str, ...], scope: SearchScope, before: int | None) -> _Found:
    until, hits, num_read, database = time.monotonic() + SECONDS, list[SearchHit](), 0, visit.database
    if before is None:
        async with database.read() as session:
            before = await newest_turn_id(session) + 1
    while before > 0 and len(hits) < MOST_HITS and time.monotonic() < until:
        async with database.read() as session:
            piece = await search_piece(session, words=words, scope=scope, before=before)
        room = MOST_HITS - len(hits)
        hits += piece.hits[:room]
        num_read += piece.num_read
        before = hits[-1].turn_id if len(piece.hits) > room else piece.before
        await asyncio.sleep(0)  # other pages are served meanwhile
    return _Found(hits, before, num_read)


async def _record(visit: Visit, hits: list[SearchHit]) -> None:
    """Not the words of the search: they may be a member's."""
    dialogs: dict[int, set[int]] = {}
    for hit in hits:
        dialogs.setdefault(hit.guild_id, set()).add(hit.dialog_id)
    for guild_id, ids in dialogs.items():
        await visit.database.run(
            partial(
                record_look,
                guild_id=guild_id,
                member_id=None,
                action="operator.search",
                details={"dialogs": len(ids)},
                now=datetime.now(UTC),
            )
        )


def excerpt(text: str, words: tuple[str, ...]) -> list[tuple[bool, str]]:
    """The text around the first word that is in it, in pieces, each marked or not; its beginning if none is."""
    lowered = text.lower()
    places = [(place, len(word)) for word in words if (place := lowered.find(word)) >= 0]
    place, length = min(places, default=(0, 0))
    start, end = max(0, place - _AROUND), min(len(text), place + length + _AROUND)
    before, after = "…" if start else "", "…" if end < len(text) else ""
    return [
        (False, before + text[start:place]),
        (True, text[place : place + length]),
        (False, text[place + length : end] + after),
    ]
