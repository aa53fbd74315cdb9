"""Renders the database benchmark's results as a Markdown table, an SVG plot and JSON lines. Opens no database."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

COLOURS = {"sqlite": "#0b6e99", "postgres": "#c2410c"}
PLOTTED = ("fetch history", "T1 + T2")  # values of `what`, see database.py
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True, slots=True)
class Line:
    """The latency of one operation on one database of one size; a line of docs/bench/database.jsonl."""

    backend: str
    turns: int
    what: str
    count: int
    p50_ms: float
    p99_ms: float

    def data(self) -> dict[str, object]:
        """Return the JSON object, times rounded to microseconds."""
        return {
            key: round(value, 3) if isinstance(value, float) else value
            for key, value in dataclasses.asdict(self).items()
        }


def write_report(folder: Path, lines: list[Line]) -> None:
    """Write the table into database-performance.md between BEGIN and END, the plot, and the JSON lines."""
    for name in ("bench", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps({**line.data(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}) + "\n" for line in lines)
    (folder / "bench" / "database.jsonl").write_text(raw)
    (folder / "figures" / "database.svg").write_text(plot(lines))
    page = folder / "database-performance.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{table(lines)}\n{END}{after}")


def table(lines: list[Line]) -> str:
    """Return the Markdown table, one row per database and operation, one column per size."""
    sizes = sorted({line.turns for line in lines})
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    rows = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}; load average at the end {load}. Milliseconds, p50 / p99.",
        "",
        "| database | what | " + " | ".join(f"{size:,} turns" for size in sizes) + " |",
        "|---|---|" + "---:|" * len(sizes),
    ]
    for backend in dict.fromkeys(line.backend for line in lines):
        for what in dict.fromkeys(line.what for line in lines):
            cells = []
            for size in sizes:
                found = [ln for ln in lines if (ln.backend, ln.what, ln.turns) == (backend, what, size)]
                cells.append(f"{found[0].p50_ms:.2f} / {found[0].p99_ms:.2f}" if found else "-")
            rows.append(f"| {backend} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def plot(lines: list[Line]) -> str:
    """Return an SVG of latency against size (logarithmic axis): p50 as a solid line, p99 dashed."""
    width, height, left, bottom = 720, 360, 60, 50
    shown = [line for line in lines if line.what in PLOTTED]
    top = max((line.p99_ms for line in shown), default=1.0) * 1.1
    low, high = (math.log10(f(line.turns for line in shown)) for f in (min, max))

    def x(turns: int) -> float:
        fraction = (math.log10(turns) - low) / (high - low) if high > low else 0.5
        return left + fraction * (width - left - 160)

    def y(ms: float) -> float:
        return height - bottom - ms / top * (height - bottom - 20)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for step in range(6):
        ms = top * step / 5
        parts.append(f'<path d="M{left} {y(ms):.1f}H{width - 160}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(ms) + 4:.1f}" text-anchor="end">{ms:.1f}</text>')
    for size in sorted({line.turns for line in shown}):
        parts.append(f'<text x="{x(size):.1f}" y="{height - bottom + 18}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text x="{left}" y="14">milliseconds</text>')
    parts.append(
        f'<text x="{(width - 100) / 2:.0f}" y="{height - 8}" text-anchor="middle">turns in the database</text>'
    )
    for backend in dict.fromkeys(line.backend for line in shown):
        for what in PLOTTED:
            series = sorted((ln for ln in shown if (ln.backend, ln.what) == (backend, what)), key=lambda ln: ln.turns)
            if not series:
                continue
            colour, weight = COLOURS.get(backend, "#444"), 3 if what == PLOTTED[0] else 1.5
            for values, dash in (([ln.p50_ms for ln in series], ""), ([ln.p99_ms for ln in series], "5 4")):
                points = " ".join(f"{x(ln.turns):.1f},{y(ms):.1f}" for ln, ms in zip(series, values, strict=True))
                parts.append(
                    f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{weight}" '
                    f'stroke-dasharray="{dash}"/>'
                )
            end = series[-1]
            parts.append(
                f'<text x="{x(end.turns) + 8:.1f}" y="{y(end.p50_ms) + 4:.1f}" fill="{colour}">{backend}: {what}</text>'
            )
    parts.append("</svg>\n")
    return "".join(parts)
