"""Draws docs/bench/*.jsonl as SVG with the standard library: `python docs/bench/scripts/plot.py [docs/bench]`."""

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

Point = tuple[float, float]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 60, 50, 40, 150
COLOURS = ("#3366cc", "#666666", "#dc6b2f", "#999999", "#2a9d5c", "#8a4fbf", "#c9a227")


def read(path: Path) -> list[dict[str, object]]:
    """The JSON lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def round_up(value: float) -> float:
    """The end of an axis whose quarters are short numbers."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * power >= value)


def lines(title: str, x_label: str, y_label: str, series: dict[str, list[Point]], *, doubling: bool = False) -> str:
    """A line chart from 0 to the largest values, with a legend. `doubling`: x goes from 1 on, and doubles by steps."""
    points = [point for values in series.values() for point in values]
    max_x, max_y = max(x for x, _ in points), round_up(max(y for _, y in points))

    def share(x: float) -> float:
        return math.log(x) / math.log(max_x) if doubling else x / max_x

    def at(point: Point) -> str:
        x = LEFT + share(point[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - point[1] / max_y * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{escape(x_label)}</text>',
        f'<text x="12" y="{HEIGHT - BOTTOM}" transform="rotate(-90 12 {HEIGHT - BOTTOM})">{escape(y_label)}</text>',
    ]
    for tick in range(5):
        x, y = max_x ** (tick / 4) if doubling else max_x * tick / 4, max_y * tick / 4
        px, py = at((x, y)).split(",")
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py}" y2="{py}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py}" text-anchor="end" dy="4">{y:.5g}</text>')
        parts.append(f'<text x="{px}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:.4g}</text>')
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(at(point) for point in values)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{at(p).split(",")[0]}" cy="{at(p).split(",")[1]}" r="2.5" fill="{colour}"/>' for p in values
        ]
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{TOP + 16 + 18 * number}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def bars(title: str, rows: dict[str, dict[str, float]]) -> str:
    """Stacked horizontal bars of equal width, one for each row, with its total in its label."""
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    height = TOP + 60 * len(rows) + 20 + 18 * len(names)
    parts_of = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="20" y="22" font-size="15">{escape(title)}</text>',
    ]
    for number, (row, parts) in enumerate(rows.items()):
        y, x, total = TOP + 60 * number, 20.0, sum(parts.values())
        parts_of.append(f'<text x="20" y="{y + 12}">{escape(row)}: {total:.2f} ms</text>')
        for name, value in parts.items():
            width = value / total * (WIDTH - 40)
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts_of.append(f'<rect x="{x:.1f}" y="{y + 18}" width="{width:.1f}" height="22" fill="{colour}"/>')
            x += width
    for number, name in enumerate(names):
        y = TOP + 60 * len(rows) + 14 + 18 * number
        parts_of.append(f'<rect x="20" y="{y - 10}" width="12" height="12" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts_of.append(f'<text x="38" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts_of, "</svg>", ""])


def draw(folder: Path, figures: Path) -> None:
    """Write all figures into `figures`, from the measurements in `folder`."""
    draw_members(read(folder / "h200.jsonl"), figures)
    draw_month(read(folder / "month.jsonl"), figures)
    steps = [line for line in read(folder / "h100-steps.jsonl") if line["workload"] == "decode step"]
    newest = max(str(line["date"]) for line in steps)
    latest = {}  # (context rounded to hundreds, rows) -> tokens a second
    for line in steps:
        if line["date"] == newest:
            latest[round(int(str(line["context"])), -2), int(str(line["rows"]))] = float(str(line["output_tok_s"]))
    by_context: dict[str, list[Point]] = {}
    for (context, rows), speed in sorted(latest.items()):
        by_context.setdefault(f"context about {context}", []).append((rows, speed))
    title = "Decoding, 7B shape, bf16, one H100"
    (figures / "batch.svg").write_text(lines(title, "rows in the batch", "output tokens a second", by_context))
    parts = {str(line["step"]): line["parts"] for line in read(folder / "h100-parts.jsonl")}
    title = "Where a step's time goes, 7B shape, bf16, one H100"
    (figures / "parts.svg").write_text(bars(title, parts))  # type: ignore[arg-type]  # read from JSON
    turns: dict[str, list[Point]] = {}
    for line in read(folder / "turns.jsonl"):
        name = f"trim_step {line['trim_step']}"
        turns.setdefault(name, []).append((float(str(line["turn"])), float(str(line["computed"]))))
    title = "Prompt tokens computed in a turn (W5, at most 10 pairs)"
    (figures / "turns.svg").write_text(lines(title, "turn", "prompt tokens through the model", turns))


def draw_members(measured: list[dict[str, object]], figures: Path) -> None:
    """Tokens a second and the time to the first token against members at once: the newest M1 to M256 of each engine."""
    newest = {
        (str(line["engine"]), int(str(line["workload"])[1:])): line
        for line in measured
        if re.fullmatch(r"M\d+", str(line["workload"]))
    }
    for file, title, label, field in (
        ("members.svg", "A room of members, 7B shape, bf16, one H200", "output tokens a second", "output_tok_s"),
        ("first-tokens.svg", "A room of members: the first token, p50", "milliseconds", "ttft_p50_ms"),
    ):
        series: dict[str, list[Point]] = {}
        for (engine, members), line in sorted(newest.items()):
            name = "transformers" if engine == "hf-batching" else engine
            series.setdefault(name, []).append((members, float(str(line[field]))))
        (figures / file).write_text(lines(title, "members at once", label, series, doubling=True))


def draw_month(measured: list[dict[str, object]], figures: Path) -> None:
    """Memory, times and disk by day, of each database; memory falls where the bot is started anew."""
    days: dict[str, list[dict[str, object]]] = {}
    for line in measured:
        if "day" in line:
            name = ", ".join(filter(None, (str(line["database"]), str(line.get("label", "")))))
            days.setdefault(name, []).append(line)

    def of(name: str) -> dict[str, list[Point]]:
        return {
            database: [(float(str(day["day"])), float(str(day[name]))) for day in lived]
            for database, lived in days.items()
        }

    title, label = "A month: 1,000 guilds, 20,000 members", "day"
    for file, y_label, series in (
        ("month-memory.svg", "resident memory of the bot, MiB", of("rss_mib")),
        ("month-database.svg", "database on disk, MiB", of("database_mib")),
        ("month-acknowledged.svg", "until acknowledged, p50, ms", of("acknowledged_p50_ms")),
        ("month-cpu.svg", "CPU time of the bot a message, ms", of("bot_cpu_ms")),
    ):
        (figures / file).write_text(lines(title, label, y_label, series))


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    docs = Path(arguments[0] if arguments else "docs")
    draw(docs / "bench", docs / "figures")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
