"""The figures of one run of the chat benchmark: when each message came to which point, and what the database cost.

Knows the fake Discord's interactions, the bot's database and its metrics. Does not know how the run was made.
"""

from __future__ import annotations

import os
import re
import sqlite3
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.fakes.discord.server import Interaction


@dataclass(slots=True)
class Request:
    """One message and its reply; times in seconds since the epoch."""

    interaction: Interaction
    sent: float = field(default_factory=time.time)
    first_words: float = 0.0
    done: float = 0.0


class _Turn(NamedTuple):
    """A turn as it is stored."""

    interaction_id: int
    prompt_tokens: int
    completion_tokens: int
    first_token_ms: int
    total_ms: int
    finished_at: str
    """When the bot had the last token."""
    reply: str


def summary(requests: Sequence[Request], makespan: float, file: Path) -> dict[str, object]:
    """Return the figures of one run. Raises AssertionError if a displayed reply differs from the stored one."""
    columns = ", ".join(_Turn._fields)
    with closing(sqlite3.connect(file)) as database:
        rows = map(_Turn._make, database.execute(f"SELECT {columns} FROM turns WHERE status = 'done'"))
        turns = {turn.interaction_id: turn for turn in rows}
    found = [(request, turns[request.interaction.id]) for request in requests]
    for request, turn in found:
        shown = request.interaction.reply().strip()  # Python's idea of white space is wider than the bot's
        if shown not in (turn.reply.strip(), "(no answer)") and len(request.interaction.texts()) == 1:
            raise AssertionError(f"shown {shown!r}, stored {turn.reply!r}")
    outputs = sum(turn.completion_tokens for _, turn in found)
    edits = [len(message.edits) for request in requests for message in request.interaction.messages()]
    return {
        "makespan_s": round(makespan, 3),
        "requests": len(found),
        "output_tokens": outputs,
        "output_tok_s": round(outputs / makespan, 1),
        "prompt_tokens": sum(turn.prompt_tokens for _, turn in found),
        **_quantiles("acknowledged", [1000 * (_acknowledged(each) - each.sent) for each in requests]),
        **_quantiles("ttft", [turn.first_token_ms for _, turn in found]),
        **_quantiles("generated", [turn.total_ms for _, turn in found]),
        **_quantiles("first_words", [1000 * (each.first_words - each.sent) for each in requests]),
        **_quantiles("after_last_token", [1000 * (each.done - _seconds(turn.finished_at)) for each, turn in found]),
        **_quantiles("reply", [1000 * (each.done - each.sent) for each in requests]),
        "longest_pause_ms": _longest_pause(requests),
        "edits": sum(edits),
        "edits_a_reply": round(statistics.mean(edits), 1),
    }


def _acknowledged(request: Request) -> float:
    assert request.interaction.acknowledged_at is not None
    return request.interaction.acknowledged_at


def _quantiles(name: str, values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{name}_p{percent}_ms": round(ordered[min(len(ordered) - 1, percent * len(ordered) // 100)], 1)
        for percent in (50, 95)
    }


def _seconds(stored: str) -> float:
    return datetime.fromisoformat(stored).replace(tzinfo=UTC).timestamp()


def _longest_pause(requests: Sequence[Request]) -> float:
    """The longest time in which no member saw first words or a complete reply: everything stood still."""
    times = sorted([time for each in requests for time in (each.first_words, each.done)])
    return round(1000 * max(after - before for before, after in pairwise(times)), 1)


def transactions(page: str) -> dict[str, float]:
    """What the bot's write transactions have cost so far, from its metrics page."""
    name = r'guildllama_bot_database_((?:wait_)?seconds_(?:sum|count)){kind="write"}'
    sums: Mapping[str, str] = dict(re.findall(rf"^{name} ([0-9.e+-]+)$", page, re.MULTILINE))
    return {
        "transactions": float(sums["seconds_count"]),
        "transactions_s": float(sums["seconds_sum"]),
        "transactions_waited_s": float(sums["wait_seconds_sum"]),
    }


def sync_milliseconds(folder: Path) -> float:
    """Milliseconds to write 4 KiB and sync the disk, as each commit does; the median of 32."""
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(32):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 2)
