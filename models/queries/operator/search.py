"""The operator's search: a piece of the turns, newest first, opened and compared here.

There is no index of words: encrypted text can have none, and it would be a second copy of what members delete. So a
search reads, and its caller decides for how long. Words of those who opted out, and of conversations that an admin has
deleted, are not found.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from sqlalchemy import exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec
from models.queries.operator.paging import OPERATOR
from models.queries.scope import cross_application, cross_tenant
from models.tables import Dialog, MemberSettingsRow, OptOut, Turn
from models.types import DIRECT_MESSAGES, EVERYBODY
from models.types.operator import SearchHit, SearchScope

PIECE = 1000
"""Row ids of turns that one piece looks at."""


@dataclass(frozen=True, slots=True)
class SearchPiece:
    """What one piece found. The next one begins below `before`; 0: there is nothing below it."""

    hits: tuple[SearchHit, ...]
    before: int
    num_read: int


@cross_application("the newest row id of all is where a search begins")
async def newest_turn_id(session: AsyncSession) -> int:
    """Return the highest id of a turn, 0 if there is none."""
    return int(await session.scalar(select(func.max(Turn.id))) or 0)


@cross_tenant(OPERATOR)
async def search_piece(
    session: AsyncSession, *, words: tuple[str, ...], scope: SearchScope, before: int
) -> SearchPiece:
    """Look for turns that have all words, in message or reply, among those just below an id."""
    found = (
        select(Turn.id, Turn.dialog_id, Dialog.guild_id, Turn.author_id, Turn.created_at, Turn.user_text, Turn.reply)
        .join(Dialog, Dialog.id == Turn.dialog_id)
        .where(ours(Turn), ours(Dialog), Turn.id < before, Dialog.purge_id.is_(None))
        .where(~exists().where(ours(OptOut), OptOut.user_id == Turn.author_id))
        .order_by(Turn.id.desc())
    )
    if scope.guild_id is not None:
        found = found.where(Dialog.guild_id == scope.guild_id)
    if not scope.private:
        private = exists().where(
            ours(MemberSettingsRow),
            MemberSettingsRow.guild_id == Dialog.guild_id,
            MemberSettingsRow.user_id == Dialog.user_id,
            MemberSettingsRow.private.is_(True),
        )
        found = found.where(or_(Dialog.user_id == EVERYBODY, (Dialog.guild_id != DIRECT_MESSAGES) & ~private))
    if scope.member_id is not None:  # an index finds their turns, wherever they are
        rows = (await session.execute(found.where(Turn.author_id == scope.member_id).limit(PIECE))).all()
        floor = rows[-1].id if len(rows) == PIECE else 0
    else:
        floor = max(0, before - PIECE)
        rows = (await session.execute(found.where(Turn.id >= floor))).all()
    opened = codec(session).open
    hits = []
    for row in rows:
        text, reply = opened(row.user_text), "" if row.reply is None else opened(row.reply)
        if has_words(f"{text}\n{reply}", words):
            hits.append(SearchHit(row.id, row.dialog_id, row.guild_id, row.author_id, row.created_at, text, reply))
    return SearchPiece(tuple(hits), floor, len(rows))


def folded(text: str) -> str:
    """A text without the differences that a search does not mind."""
    return unicodedata.normalize("NFKC", text).casefold()


def has_words(text: str, words: tuple[str, ...]) -> bool:
    """Whether a text has all of these folded words."""
    known = folded(text)
    return all(word in known for word in words)
