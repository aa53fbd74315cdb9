"""What a member reads again: pages of a conversation, a search over all they may see, a whole conversation to keep.

Each reads what it needs in short transactions. Knows no Discord: how a page looks is up to the caller.
"""

from __future__ import annotations

import asyncio
import unicodedata
from dataclasses import dataclass

from bot.storage import translate_database_errors
from models.database import Database
from models.queries.dialogs.exchanges import count_exchanges, dialog_head, exchanges, visible_dialogs
from models.types import DialogHead, DialogKey, Exchange

BATCH = 100
"""Exchanges read, and decrypted, at once: some milliseconds."""
SEARCHED = 2_000
"""Exchanges that one search looks through. Encrypted text cannot be searched by the database."""
EXPORTED = 10_000
"""The longest conversation that is exported, in exchanges."""
_PAGE_BATCH = 40


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive exchanges of one conversation, oldest first."""

    dialog: DialogHead
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Results of a search, the newest first, with the dialogs they are from."""

    exchanges: tuple[Exchange, ...]
    dialogs: dict[int, DialogHead]
    older_from: int | None
    """Turn before which the search can go on; None if everything older was looked through."""
    gave_up: bool
    """Whether the search ended for its bound and not for want of room."""


class HistoryReader:
    """Reads the history of any member; each query is limited to what the key may see."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stretch(
        self, key: DialogKey, *, dialog_id: int | None = None, before: int | None = None, after: int | None = None
    ) -> Stretch | None:
        """Exchanges of a conversation, of the open one without an id: those before or after a turn, or the last ones.

        None if there is no such conversation.
        """
        with translate_database_errors():
            async with self._database.read() as session:
                head = await dialog_head(session, key=key, dialog_id=dialog_id)
                if head is None:
                    return None
                found = await exchanges(
                    session, key=key, dialog_ids=(head.dialog_id,), before=before, after=after, limit=_PAGE_BATCH
                )
        return Stretch(head, found)

    async def is_begun(self, key: DialogKey) -> bool:
        """Whether something was said in the open conversation that this member may read."""
        stretch = await self.stretch(key)
        return stretch is not None and bool(stretch.exchanges)

    async def oldest_of_last(self, key: DialogKey, count: int) -> int:
        """The turn with which the last `count` exchanges of the open conversation begin; 0 if there are fewer."""
        with translate_database_errors():
            async with self._database.read() as session:
                head = await dialog_head(session, key=key)
                dialogs = () if head is None else (head.dialog_id,)
                found = await exchanges(session, key=key, dialog_ids=dialogs, limit=count)
        return found[0].turn_id if len(found) == count else 0

    async def counts(self, key: DialogKey, dialog_id: int, *, first: int, last: int, oldest: int) -> tuple[int, int]:
        """How many exchanges of a conversation come before turn `first` (from `oldest` on), and after turn `last`."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await count_exchanges(
                    session, key=key, dialog_id=dialog_id, first=first, last=last, oldest=oldest
                )

    async def search(self, key: DialogKey, text: str, *, before: int | None, limit: int) -> Found:
        """The last `limit` exchanges before this turn that contain a text, in upper or lower case."""
        wanted = folded(text)
        with translate_database_errors():
            async with self._database.read() as session:
                dialogs = {head.dialog_id: head for head in await visible_dialogs(session, key=key)}
            found: list[Exchange] = []
            for _ in range(SEARCHED // BATCH):
                async with self._database.read() as session:
                    batch = await exchanges(session, key=key, dialog_ids=tuple(dialogs), before=before, limit=BATCH)
                for exchange in reversed(batch):
                    before = exchange.turn_id
                    if any(wanted in folded(part) for part in texts_of(exchange)):
                        found.append(exchange)
                        if len(found) == limit:
                            return Found(tuple(found), dialogs, before, False)
                if len(batch) < BATCH:
                    return Found(tuple(found), dialogs, None, False)
                await asyncio.sleep(0)
        return Found(tuple(found), dialogs, before, True)

    async def whole(self, key: DialogKey) -> Stretch | None:
        """The open conversation, at most its last EXPORTED exchanges."""
        pieces: list[tuple[Exchange, ...]] = []
        before: int | None = None
        with translate_database_errors():
            async with self._database.read() as session:
                head = await dialog_head(session, key=key)
            if head is None:
                return None
            for _ in range(EXPORTED // BATCH):
                async with self._database.read() as session:
                    batch = await exchanges(session, key=key, dialog_ids=(head.dialog_id,), before=before, limit=BATCH)
                pieces.append(batch)
                if len(batch) < BATCH:
                    break
                before = batch[0].turn_id
        return Stretch(head, tuple(exchange for piece in reversed(pieces) for exchange in piece))


def folded(text: str) -> str:
    """A text without the differences that a search ignores."""
    return unicodedata.normalize("NFKC", text).casefold()


def texts_of(exchange: Exchange) -> tuple[str, ...]:
    """The texts of an exchange that a search looks at."""
    return (exchange.user, exchange.reply, *(file.name for file in exchange.files))
