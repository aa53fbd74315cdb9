"""The months of a file of results as Markdown tables: one line a week, and the figures that the verdict looked at.

python -m tests.bench.month.report [docs/bench/month.jsonl]
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.month.verdict import BOUNDS, WARM_UP, WEEK, verdicts

Day = Mapping[str, Any]
COLUMNS: dict[str, Callable[[Day], float | None]] = {
    "messages": lambda day: day["acts"],
    "memory (MiB)": lambda day: day["rss_mib"],
    "descriptors": lambda day: day["fds"],
    "objects (thousands)": lambda day: day["objects"] / 1000,
    "CPU a message (ms)": lambda day: day["bot_cpu_ms"],
    "acknowledged p50 / p99 (ms)": lambda day: day["acknowledged_p50_ms"],
    "answered p50 / p99 (s)": lambda day: day["replied_p50_s"],
    "database (MiB)": lambda day: day["database_mib"],
    "turns": lambda day: day["rows"]["turns"],
    "users": lambda day: day["rows"]["users"],
}
SECOND = {"acknowledged p50 / p99 (ms)": "acknowledged_p99_ms", "answered p50 / p99 (s)": "replied_p99_s"}


def months(lines: Sequence[Day]) -> dict[str, list[Day]]:
    """The days of each database and label, of its last month in the file."""
    found: dict[str, list[Day]] = {}
    for line in lines:
        if line.get("day") == 1:
            found[name_of(line)] = []
        if "day" in line:
            found[name_of(line)].append(line)
    return found


def name_of(line: Day) -> str:
    """What a month is called."""
    return ", ".join(filter(None, (line["database"], line.get("label"))))


def table(days: Sequence[Day]) -> str:
    """A line a week: medians of its days; the messages are their sum."""
    rows = [f"| days | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for start in range(0, len(days), WEEK):
        week = days[start : start + WEEK]
        cells = [f"{week[0]['day']}–{week[-1]['day']}"]
        for name, value in COLUMNS.items():
            values = [each for day in week if (each := value(day)) is not None]
            middle = sum(values) if name == "messages" else statistics.median(values)
            cell = shown(middle)
            if name in SECOND:
                cell += f" / {shown(statistics.median(day[SECOND[name]] for day in week))}"
            cells.append(cell)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def judged(days: Mapping[str, Sequence[Day]], *, warm_up: int) -> str:
    """The verdict of each database beside each other, of the figures and of the tables that have rows."""
    found = {name: {each.name: each for each in verdicts(lived, warm_up=warm_up)} for name, lived in days.items()}
    rows = [
        f"| figure | {' | '.join(f'{name}: first week | growth | allowed' for name in found)} |",
        f"|---|{'---:|' * (3 * len(found))}",
    ]
    for figure in dict.fromkeys(each for of_one in found.values() for each in of_one):
        cells = []
        for of_one in found.values():
            each = of_one.get(figure)
            cells += ["–"] * 3 if each is None else [shown(each.first_week), shown(each.growth), shown(each.allowed)]
            if each is not None and not each.flat:
                cells[-2] = f"**{cells[-2]}**"
        if figure in BOUNDS or any(of_one[figure].first_week for of_one in found.values() if figure in of_one):
            rows.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(rows)


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main(file: Path) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = months(lines)
    for name, days in found.items():
        ends = [line for line in lines if "end" in line and name_of(line) == name]
        sys.stdout.write(f"\n{name}\n\n{table(days)}\n")
        if ends:
            sys.stdout.write(f"\n{ends[-1]['outcomes']}\n{ends[-1]['broken']}\n")
    sys.stdout.write(f"\n{judged(found, warm_up=WARM_UP)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/bench/month.jsonl"))
