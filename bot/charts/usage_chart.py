"""A picture of a guild's use by day. A worker draws it: the event loop never waits, and matplotlib's memory goes again.

Knows numbers by day; does not know whose they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from bot.attachments.worker_process import WorkerFailed, run_worker

_SECONDS = 30.0  # the first time, matplotlib looks through all fonts of the machine
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of bars: its title in the reader's language, in English for want of a font, and a number for each day."""

    title: str
    english: str
    values: tuple[int, ...]


class ChartFailed(Exception):
    """The picture could not be drawn; the log says why."""


async def draw_usage(days: Sequence[date], panels: Sequence[Panel]) -> bytes:
    """A PNG with one row of bars for each panel, one bar for each day. Raises ChartFailed."""
    wanted = {
        "days": [each.isoformat() for each in days],
        "panels": [{"title": each.title, "english": each.english, "values": list(each.values)} for each in panels],
    }
    try:
        answer = await run_worker(
            "bot.charts.usage_worker", json.dumps(wanted).encode(), seconds=_SECONDS, max_output=_MAX_BYTES
        )
    except WorkerFailed as error:
        raise ChartFailed(str(error)) from error
    if answer.status != "ok":
        raise ChartFailed(answer.status)
    return answer.payload
