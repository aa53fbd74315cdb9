"""The files of turns, as the model reads them: texts, and the names of pictures. Stored with a turn, read with it.

What of a file is kept is decided before: see bot/chat/files. Nobody's texts are stored who opted out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec
from models.tables import OptOut, TurnFile
from models.types import FileKind, StoredFile

_MAX_IDS = 500  # in one statement


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
        opted_out = set(await session.scalars(select(OptOut.user_id).where(ours(OptOut), OptOut.user_id.in_(authors))))
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
