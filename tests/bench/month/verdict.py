"""Whether a figure stayed flat: its slope after the warm-up, over the whole span, against its first week.

The slope is Theil and Sen's: the median of the slopes between all pairs of days, which a few odd days do not move. A
bound is a share of the first week's median plus an amount that is noise at any size.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WEEK = 7
WARM_UP = 10
"""The first day that is compared: until then, what has a retention fills up (a day of idling, then a week), and the bot
is stopped and killed."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much a figure may grow from the first to the last day that is looked at. `of_process`: one run of the bot."""

    share: float
    amount: float
    of_process: bool = False


BOUNDS: Mapping[str, Bound] = {
    "rss_mib": Bound(0.05, 5, of_process=True),
    # Most are connections to Discord and the engine, as many as there were requests at once before the sample.
    "fds": Bound(0, 15, of_process=True),
    "threads": Bound(0, 2, of_process=True),
    "tasks": Bound(0.05, 5, of_process=True),
    "objects": Bound(0.05, 5000, of_process=True),
    "bot_cpu_ms": Bound(0.10, 1),
    "acknowledged_p50_ms": Bound(0.20, 5),
    "acknowledged_p99_ms": Bound(0.30, 50),
    "replied_p50_s": Bound(0.10, 0.1),
    "replied_p99_s": Bound(0.30, 0.5),
    "database_mib": Bound(0.10, 1),
    "wal_mib": Bound(0, 4),
}
ROWS = Bound(0.15, 100)
"""Of every table: what members do varies from day to day."""
KEPT = frozenset({"personas", "persona_versions", "persona_assignments", "member_settings", "guild_settings"})
"""Tables of what somebody wrote or chose, which is kept until they delete it or their guild is gone: these may grow."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure: its first week's median, its growth over the span by the slope, and how much was allowed."""

    name: str
    first_week: float
    growth: float
    allowed: float

    @property
    def flat(self) -> bool:
        return self.growth <= self.allowed


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's slope; 0 of fewer than two points."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2) if b[0] != a[0]]
    return statistics.median(slopes) if slopes else 0.0


def judge(name: str, points: Sequence[tuple[float, float]], bound: Bound) -> Verdict:
    """Judge one figure by its days."""
    first = points[0][0]
    first_week = statistics.median(value for day, value in points if day < first + WEEK)
    growth = slope(points) * (points[-1][0] - first)
    return Verdict(name, round(first_week, 2), round(growth, 2), round(bound.share * first_week + bound.amount, 2))


def verdicts(days: Sequence[Mapping[str, object]], *, warm_up: int) -> list[Verdict]:
    """Judge every figure that the days have, from day `warm_up` on; those of a process over its longest run."""
    seen = [day for day in days if _number(day["day"]) >= warm_up]
    found = [
        judge(name, _points(_longest_run(seen) if bound.of_process else seen, name), bound)
        for name, bound in BOUNDS.items()
        if any(day.get(name) is not None for day in seen)
    ]
    tables = seen[0]["rows"] if seen else {}
    assert isinstance(tables, Mapping)
    for table in [each for each in tables if each not in KEPT]:
        points = [(_number(day["day"]), _number(day["rows"][table])) for day in seen]  # type: ignore[index]
        found.append(judge(f"rows of {table}", points, ROWS))
    return found


def _points(days: Sequence[Mapping[str, object]], name: str) -> list[tuple[float, float]]:
    return [(_number(day["day"]), _number(day[name])) for day in days if day.get(name) is not None]


def _longest_run(days: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The days of the process that lived longest, without its first two: it still loads what it needs."""
    runs = [list(group) for _, group in itertools.groupby(days, key=lambda day: day["run"])]
    longest = max(runs, key=len)
    return longest[2:] if len(longest) > 4 else longest


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
