"""Replies that were shown but could not be stored, kept in memory until the database is back.

Bounded: the oldest are dropped first, and `TurnLog.recover` then ends their turns. Knows the database and its
errors; what is stored is up to the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from models.database import Database, Work
from models.errors import DatabaseError, DatabaseUnavailable

log = structlog.get_logger(__name__)

MAX_TURNS = 1000
MAX_CHARS = 2_000_000
CLOSE_TIMEOUT = 5.0  # seconds for what is still to be stored when the bot stops


@dataclass(frozen=True, slots=True)
class UnsavedTurn:
    """The finish transaction of one turn, to be repeated; `chars` is the length of what it stores."""

    turn_id: int
    chars: int
    store: Work[bool]


class UnsavedTurns:
    """Finish transactions in the order in which they failed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns: OrderedDict[int, UnsavedTurn] = OrderedDict()
        self._storing: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def turn_ids(self) -> frozenset[int]:
        """The turns that are still to be stored."""
        return frozenset(self._turns)

    def add(self, turn: UnsavedTurn) -> None:
        """Keep a turn for later, at the expense of the oldest ones if there are too many."""
        self._turns[turn.turn_id] = turn
        while len(self._turns) > MAX_TURNS or sum(kept.chars for kept in self._turns.values()) > MAX_CHARS:
            dropped, _ = self._turns.popitem(last=False)
            log.warning("too many replies wait for the database, the oldest is given up", turn=dropped)

    def store_soon(self) -> None:
        """Store what waits in the background. For a moment at which the database has just answered."""
        if self._turns and (self._storing is None or self._storing.done()):
            self._storing = asyncio.create_task(self._store_quietly(), name="store-unsaved")

    async def close(self) -> None:
        """Try for the last time to store what waits."""
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.store()
        except (TimeoutError, DatabaseError):
            log.error("replies are lost, the database did not come back", turns=len(self))

    async def _store_quietly(self) -> None:
        with contextlib.suppress(DatabaseError):  # it is away again: the next success or `TurnLog.recover` tries
            await self.store()

    async def store(self) -> int:
        """Store all turns and return how many were stored. Raises DatabaseUnavailable; what is left stays for later."""
        stored = 0
        while self._turns:
            turn_id, turn = next(iter(self._turns.items()))
            try:
                await self._database.run(turn.store)
            except DatabaseUnavailable:
                raise
            except Exception as error:
                log.error("a reply cannot be stored, its turn is given up", turn=turn_id, error=type(error).__name__)
            else:
                stored += 1
                log.info("a reply was stored now that the database is back", turn=turn_id)
            self._turns.pop(turn_id, None)
        return stored
