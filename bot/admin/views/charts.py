"""Charts as places on a plane: bars or a line over labels. templates/charts.html draws them as SVG.

Pure functions. Each chart has its numbers as text too, for who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 640, 190, 60, 28, 30, 18
_LABELS = 5
Value = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Point:
    """One value: its bar, and the middle of it for a line."""

    label: str
    text: str
    x: float
    y: float
    width: float
    height: float
    middle: float


@dataclass(frozen=True, slots=True)
class GridLine:
    """A line across the chart, and what it stands for."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of bars, or with `line` of one line. Every `every`th label is written."""

    title: str
    unit: str
    axis: str
    points: tuple[Point, ...]
    grid: tuple[GridLine, ...]
    line: bool
    every: int
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a total is in use, and beside that held for later; from 0 to 1."""

    used: float
    held: float


def chart(title: str, values: Sequence[Value], unit: str, *, axis: str, line: bool = False) -> Chart:
    """Place the values on a plane."""
    top = _nice(max((value for _, value in values), default=0.0))
    step, room = (_WIDTH - _LEFT - _RIGHT) / max(1, len(values)), _HEIGHT - _BOTTOM - _TOP
    points = []
    for index, (label, value) in enumerate(values):
        left, height = _LEFT + index * step, room * value / top
        points.append(
            Point(
                label,
                short_number(value),
                round(left + step * 0.1, 1),
                round(_HEIGHT - _BOTTOM - height, 1),
                round(step * 0.8, 1),
                round(height, 1),
                round(left + step / 2, 1),
            )
        )
    grid = tuple(
        GridLine(round(_HEIGHT - _BOTTOM - room * part, 1), short_number(top * part)) for part in (0.0, 0.5, 1.0)
    )
    every = max(1, math.ceil(len(values) / _LABELS))
    return Chart(title, unit, axis, tuple(points), grid, line, every)


def share(used: float, held: float, total: float) -> Share:
    """Parts of a total, whatever was counted meanwhile."""
    first = min(1.0, max(0.0, used / total)) if total > 0 else 0.0
    second = min(1.0 - first, max(0.0, held / total)) if total > 0 else 0.0
    return Share(round(first, 4), round(second, 4))


def histogram(values: Sequence[float], bounds: Sequence[float], unit: str) -> list[Value]:
    """How many values lie at or below each bound, and above the one before it."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[next((index for index, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    names = [*(f"≤ {bound:g} {unit}" for bound in bounds), f"> {bounds[-1]:g} {unit}"]
    return list(zip(names, map(float, counts), strict=True))


def quantile(values: Sequence[float], percent: int) -> float | None:
    """The value below which this percentage of the values lies; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, part = int(place), place - int(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * part


def short_number(value: float) -> str:
    """A number in few characters."""
    for least, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / unit:.4g}{letter}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _nice(most: float) -> float:
    """The next number that is 1, 2, 4, 6 or 10 times a power of ten: half of it is a short number too."""
    if most < 1e-6:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 4, 6, 10) if most <= step * power * (1 + 1e-9))
