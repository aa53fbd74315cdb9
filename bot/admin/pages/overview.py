"""The first page: the applications of the database, and the figures of one, with charts."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.responses import Response

from bot.admin.context import Visit
from bot.admin.views.charts import Chart, Share, chart, histogram, quantile, share
from bot.admin.views.live import LiveFigures
from bot.storage import translate_database_errors
from models.database import Database
from models.queries.application import applications
from models.types import AnswerTiming, DayFigures

DAYS = 30
_FIRST_TOKEN = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SPEEDS = (2, 5, 10, 20, 50, 100, 200)
_MIN_TOKENS = 8
"""Tokens from which on a reply tells a speed."""


async def applications_page(visit: Visit) -> Response:
    """Which bots the database has; with one, its overview."""
    found = await known_applications(visit.admin.database)
    if len(found) == 1:
        return visit.to(f"/a/{found[0]}")
    return visit.page("applications.html", "Bots", applications=found)


async def known_applications(database: Database) -> tuple[int, ...]:
    """The applications that have rows here or were started here."""
    with translate_database_errors():
        async with database.read() as session:
            return await applications(session)


async def overview_page(visit: Visit) -> Response:
    """Figures of one application, and of the engine now."""
    if visit.application_id not in await known_applications(visit.admin.database):
        raise HTTPException(404)
    days, figures = await visit.admin.figures.read(visit.database)
    first = [each.first_token_ms / 1000 for each in figures.answers if each.first_token_ms is not None]
    speeds = [speed for each in figures.answers if (speed := _speed(each)) is not None]
    speed_charts = [
        chart("Time to the first token", histogram(first, _FIRST_TOKEN, "s"), "answers", axis="Time"),
        chart("Tokens a second", histogram(speeds, _SPEEDS, "/s"), "answers", axis="Speed"),
    ]
    quantiles = [
        ("Time to the first token, s", *(quantile(first, percent) for percent in (50, 90, 99))),
        # 99 % of the answers are at least as fast as the slowest hundredth.
        ("Tokens a second, at least", *(quantile(speeds, 100 - percent) for percent in (50, 90, 99))),
    ]
    return visit.page(
        "overview.html",
        "Overview",
        figures=figures,
        charts=day_charts(days),
        speed_charts=speed_charts,
        quantiles=quantiles,
        live=live_values(visit.admin.live),
        live_charts=live_charts(visit.admin.live),
        servers=server_rows(visit.admin.live),
        live_urls=visit.admin.live.urls,
        live_problem=visit.admin.live.problem,
    )


def day_charts(days: Sequence[DayFigures]) -> list[Chart]:
    """Messages, members and tokens a day."""
    return [
        chart(title, [(f"{each.day:%d %b}", float(getattr(each, name))) for each in days], name, axis="Day")
        for title, name in (
            ("Messages a day", "messages"),
            ("Active members a day", "members"),
            ("Tokens a day", "tokens"),
        )
    ]


def live_values(live: LiveFigures) -> list[tuple[str, str, Share | None]]:
    """What the engine says now: a name, a value, and a bar where there is a total."""
    if not live.readings:
        return []
    now, rows = live.readings[-1], list[tuple[str, str, Share | None]]()
    for name, text in (("running", "Replies being written (rows)"), ("waiting", "Requests in the queue")):
        if (value := now.get(name)) is not None:
            rows.append((text, f"{value:,.0f}", None))
    kv, kept, total = now.get("kv_used_tokens"), now.get("kv_cached_tokens"), now.get("kv_total_tokens")
    if kv is not None and total:
        text = f"{kv:,.0f} of {total:,.0f} tokens, {kept or 0:,.0f} kept for later"
        rows.append(("KV cache", text, share(kv, kept or 0, total)))
    host, host_total = now.get("kv_host_used_tokens"), now.get("kv_host_total_tokens")
    if host is not None and host_total is not None:
        rows.append(("Host tier", f"{host:,.0f} of {host_total:,.0f} tokens", share(host, 0, host_total)))
    if (hits := now.prefix_hits) is not None:
        rows.append(("Prefix hits", f"{hits:.1%} of prompt tokens since the start", share(hits, 0, 1)))
    if (restarts := now.get("restarts_total")) is not None:
        rows.append(("Restarts", f"{restarts:,.0f}", None))
    return rows


def server_rows(live: LiveFigures) -> list[tuple[str, ...]]:
    """Each of several servers: its number, its state, and what it has to do; nothing where there is one."""
    servers = live.readings[-1].servers if live.readings else {}
    if len(servers) < 2:
        return []
    return [
        (
            number,
            server.state or "–",
            _whole(server.figures.get("running")),
            _whole(server.figures.get("waiting")),
            _percent(_ratio(server.figures.get("kv_used_tokens"), server.figures.get("kv_total_tokens"))),
            _percent(server.prefix_hits),
        )
        for number, server in servers.items()
    ]


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def live_charts(live: LiveFigures) -> list[Chart]:
    """The last hour, once there are readings enough."""
    speeds = live.speeds()
    waiting = [(f"{each.at:%H:%M:%S}", each.get("waiting") or 0.0) for each in live.readings]
    if len(speeds) < 2:
        return []
    return [
        chart("Tokens a second of the engine", speeds, "tokens a second", axis="Time", line=True),
        chart("Requests in the queue", waiting, "requests", axis="Time", line=True),
    ]


def _speed(answer: AnswerTiming) -> float | None:
    if answer.first_token_ms is None or answer.total_ms is None or answer.completion_tokens is None:
        return None
    seconds = (answer.total_ms - answer.first_token_ms) / 1000
    return (answer.completion_tokens - 1) / seconds if answer.completion_tokens >= _MIN_TOKENS and seconds > 0 else None
