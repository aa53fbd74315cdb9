"""How long transactions wait for their turn and take. Knows no database and nothing of what becomes of the times."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, TypeAlias

from sqlalchemy.exc import SQLAlchemyError

TransactionKind = Literal["read", "write"]
OnTransaction: TypeAlias = Callable[[TransactionKind, float, float, bool], None]
"""Told of each transaction: its kind, the seconds it waited and took, and whether the database failed it."""


def ignore_transaction(kind: TransactionKind, waited: float, seconds: float, failed: bool, /) -> None:
    """Tell nobody."""


class TimedSlot:
    """A slot of a semaphore for the block of one transaction, which is timed from the moment it has the slot."""

    __slots__ = ("_asked_at", "_began_at", "_kind", "_on_transaction", "_slots")

    def __init__(self, slots: asyncio.Semaphore, kind: TransactionKind, on_transaction: OnTransaction) -> None:
        self._slots = slots
        self._kind: TransactionKind = kind
        self._on_transaction = on_transaction
        self._asked_at = self._began_at = 0.0

    async def __aenter__(self) -> None:
        self._asked_at = time.monotonic()
        await self._slots.acquire()
        self._began_at = time.monotonic()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.release()
        failed = isinstance(error, SQLAlchemyError | sqlite3.Error)
        waited = self._began_at - self._asked_at
        self._on_transaction(self._kind, waited, time.monotonic() - self._began_at, failed)
