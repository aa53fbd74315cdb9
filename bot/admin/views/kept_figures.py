"""The figures of an application, kept for a while: reading a month of a large database takes a second.

Days that are over hardly change, so they are kept for an hour, but yesterday and today, as all else, for a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from bot.storage import translate_database_errors
from models.database import Database
from models.queries.operator.overview import days_of_use, operator_figures
from models.types import DayFigures
from models.types.operator import OperatorFigures

DAYS = 30
FRESH = 60.0
"""Seconds for which figures are shown again."""
KEPT = 3600.0
"""Seconds for which those of earlier days are."""


@dataclass(slots=True)
class _Kept:
    figures: OperatorFigures
    read_at: float
    first: date
    earlier: tuple[DayFigures, ...]
    """Before yesterday."""
    earlier_read_at: float
    recent: tuple[DayFigures, ...] = field(default=())


class KeptFigures:
    """The figures of all applications."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[int, _Kept] = {}

    async def read(self, database: Database) -> tuple[list[DayFigures], OperatorFigures]:
        """Each of the last days, and what there is now."""
        now, today = self._clock(), datetime.now(UTC).date()
        first, yesterday = today - timedelta(days=DAYS - 1), today - timedelta(days=1)
        kept = self._kept.get(database.application_id or 0)
        if kept is None or now - kept.read_at > FRESH or kept.first != first:
            with translate_database_errors():
                async with database.read() as session:
                    if kept is not None and now - kept.earlier_read_at <= KEPT and kept.first == first:
                        earlier, earlier_read_at = kept.earlier, kept.earlier_read_at
                    else:
                        before = yesterday - timedelta(days=1)
                        earlier, earlier_read_at = await days_of_use(session, first=first, last=before), now
                    recent = await days_of_use(session, first=yesterday, last=today)
                    figures = await operator_figures(session, since=first)
            kept = _Kept(figures, now, first, earlier, earlier_read_at, recent)
            self._kept[database.application_id or 0] = kept
        return every_day([*kept.earlier, *kept.recent], DAYS), kept.figures


def every_day(found: Sequence[DayFigures], days: int) -> list[DayFigures]:
    """The figures of each day up to today, also of those without any."""
    known, today = {each.day: each for each in found}, datetime.now(UTC).date()
    dates = [today - timedelta(days=days - 1 - index) for index in range(days)]
    return [known.get(day) or DayFigures(day, 0, 0, 0) for day in dates]
