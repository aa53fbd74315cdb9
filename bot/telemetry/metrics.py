"""The numbers that the bot counts about itself, for Prometheus: names, labels and buckets.

One set a process, as with a logger: what counts imports this module. Labels have few values, all known beforehand, and
none of them names a guild, a member or a text. Counting takes microseconds, whether or not anybody reads it.
Knows nothing of what it counts; `server` beside it serves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import prometheus_client as prometheus

from bot.settings.listed_models import DEFAULT_MODEL

PREFIX: Final = "guildllama_bot"
REGISTRY: Final = prometheus.CollectorRegistry()

TurnOutcome = Literal[
    "done", "stopped", "empty", "filtered", "deleted", "unsaved", "limited", "busy", "duplicate", "refused",
    "engine", "engine_timeout", "database", "interrupted", "error",
]  # fmt: skip
"""How a message ended: with a reply up to "unsaved", by the member's or the guild's rules up to "refused", and because
of a fault of the engine, the database, a restart of the bot, or the bot itself."""
TURN_OUTCOMES: Final[tuple[TurnOutcome, ...]] = (
    "done", "stopped", "empty", "filtered", "deleted", "unsaved", "limited", "busy", "duplicate", "refused",
    "engine", "engine_timeout", "database", "interrupted", "error",
)  # fmt: skip
TURN_KINDS: Final = ("new", "regenerate", "continue")
ROUTES: Final = ("acknowledge", "send", "edit", "delete", "typing", "read", "other")
STATUSES: Final = ("2xx", "401", "403", "404", "429", "4xx", "5xx", "failed")
RATE_LIMIT_SCOPES: Final = ("user", "global", "shared", "unknown")
EDIT_KINDS: Final = ("live", "final", "status")
TRANSACTION_KINDS: Final = ("read", "write")
CLEANUP_OUTCOMES: Final = ("done", "skipped", "unavailable")
CLEANED: Final = (
    "interrupted_turns", "ended_dialogs", "purged_dialogs_and_turns", "purged_old_turns", "purged_facts",
    "purged_by_admins", "purged_reports", "purged_guild_rows", "purged_guilds", "forgotten_users",
    "forgotten_bookkeeping",
)  # fmt: skip
"""The rows of a cleanup's report."""
GATEWAY_EVENTS: Final = ("lost", "resumed", "ready")
LOG_LEVELS: Final = ("warning", "error")

_DEFAULT = (DEFAULT_MODEL,)
"""The model that there always is; `begin_models` adds those that the operator lists."""

_WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_REPLY_BUCKETS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3)
_DATABASE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUEST_BUCKETS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30)

# The time at which each series began would be as many series again, and nobody asks for it.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]


def _counter(name: str, text: str, **labels: Iterable[str]) -> prometheus.Counter:
    """A counter with all its series at 0 from the start: a rate needs a number before the first event."""
    counter = prometheus.Counter(f"{PREFIX}_{name}", text, list(labels), registry=REGISTRY)
    combinations: list[tuple[str, ...]] = [()]
    for values in labels.values():
        combinations = [(*before, value) for before in combinations for value in values]
    for combination in combinations if labels else []:
        counter.labels(*combination)
    return counter


def _gauge(name: str, text: str, *labels: str) -> prometheus.Gauge:
    return prometheus.Gauge(f"{PREFIX}_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, buckets: tuple[float, ...], **labels: Iterable[str]) -> prometheus.Histogram:
    """A histogram with at most one label."""
    histogram = prometheus.Histogram(f"{PREFIX}_{name}", text, list(labels), buckets=buckets, registry=REGISTRY)
    for values in labels.values():
        for value in values:
            histogram.labels(value)
    return histogram


INFO = _gauge("info", "1; the version, the kind of database, and whose engine it is", "version", "database", "engine")

# ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TURNS = _counter(
    "turns", "Messages to be answered, by how they ended and the model", kind=TURN_KINDS, outcome=TURN_OUTCOMES,
    model=_DEFAULT,
)  # fmt: skip
WAITING = _gauge("waiting", "Messages that wait for the first token of their reply")
RUNNING = _gauge("running", "Messages whose turn has come and not ended: the model is asked, or its reply is written")
QUEUE_SECONDS = _histogram("queue_seconds", "Time from a message's admission until its turn comes", _WAIT_BUCKETS)
FIRST_TOKEN_SECONDS = _histogram(
    "first_token_seconds", "Time from a message's admission to the first token of its reply", _WAIT_BUCKETS,
    model=_DEFAULT,
)  # fmt: skip
REPLY_SECONDS = _histogram(
    "reply_seconds", "Time from a message's admission until its complete reply is stored", _REPLY_BUCKETS,
    model=_DEFAULT,
)  # fmt: skip
PROMPT_TOKENS = _counter(
    "prompt_tokens", "Prompt tokens of finished replies, as the engine counts them", model=_DEFAULT
)
REPLY_TOKENS = _counter("reply_tokens", "Tokens of finished replies, as the engine counts them", model=_DEFAULT)

# ── Discord ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DISCORD_REQUESTS = _counter(
    "discord_requests", "Responses of Discord by what was asked and their status", route=ROUTES, status=STATUSES
)
DISCORD_SECONDS = _histogram(
    "discord_request_seconds", "Time from a request to Discord until its response", _REQUEST_BUCKETS, route=ROUTES
)
RATE_LIMITED = _counter("discord_rate_limited", "Responses with status 429, by their scope", scope=RATE_LIMIT_SCOPES)
EDITS = _counter(
    "edits", "Attempts to show a reply: while it grows, complete, or its place in line", kind=EDIT_KINDS,
    outcome=("shown", "failed"),
)  # fmt: skip
GATEWAY_CONNECTED = _gauge(
    "gateway_connected", "1 while each connection of the process has a session with Discord's gateway"
)
GATEWAY_EVENTS_TOTAL = _counter("gateway_events", "Sessions with the gateway: lost, resumed, new", event=GATEWAY_EVENTS)

# ── the process ─────────────────────────────────────────────────────────────────────────────────────────────────────

LOOP_LAG_SECONDS = _histogram("loop_lag_seconds", "How late the event loop woke up, four times a second", _LAG_BUCKETS)
DATABASE_SECONDS = _histogram(
    "database_seconds", "Time of a transaction, without the wait for a connection", _DATABASE_BUCKETS,
    kind=TRANSACTION_KINDS,
)  # fmt: skip
DATABASE_WAIT_SECONDS = _histogram(
    "database_wait_seconds", "Time that a transaction waited for a connection of the pool", _DATABASE_BUCKETS,
    kind=TRANSACTION_KINDS,
)  # fmt: skip
DATABASE_FAILURES = _counter(
    "database_failures", "Transactions that the database failed; some were tried again", kind=TRANSACTION_KINDS
)
CLEANUP_RUNS = _counter("cleanup_runs", "Runs of the cleanup", outcome=CLEANUP_OUTCOMES)
CLEANUP_SECONDS = _histogram("cleanup_seconds", "Time of a cleanup", _REPLY_BUCKETS)
CLEANUP_ROWS = _counter("cleanup_rows", "Rows that cleanups ended or deleted", what=CLEANED)
CLEANUP_LAST = _gauge("cleanup_last_timestamp_seconds", "When a cleanup was last done; 0: not since the start")
ENGINE_UP = _gauge("engine_up", "1 if the engine of the default model said at this scrape that it is ready")
MODEL_UP = _gauge("model_up", "1 if a listed model's server said at this scrape that it is ready", "model")
ENGINE_METRICS_UP = _gauge("engine_metrics_up", "1 if the engine's own numbers are part of this page")
ENGINE_RESTARTS = _counter("engine_restarts", "How often the bot has restarted its engine")
LOG_LINES = _counter("log_lines", "Lines of the log that are warnings or errors", level=LOG_LEVELS)

prometheus.ProcessCollector(registry=REGISTRY)  # memory, CPU time and open files, by their usual names


def begin_models(names: Iterable[str]) -> None:
    """Have the series of these models at 0: see `_counter`."""
    for name in names:
        for kind in TURN_KINDS:
            for outcome in TURN_OUTCOMES:
                TURNS.labels(kind, outcome, name)
        for each in (FIRST_TOKEN_SECONDS, REPLY_SECONDS, PROMPT_TOKENS, REPLY_TOKENS):
            each.labels(name)


def observe_transaction(kind: Literal["read", "write"], waited: float, seconds: float, failed: bool) -> None:
    """Count a transaction of the database."""
    waits, times, failures = _TRANSACTIONS[kind]
    waits.observe(waited)
    times.observe(seconds)
    if failed:
        failures.inc()


_TRANSACTIONS: Final = {
    kind: (DATABASE_WAIT_SECONDS.labels(kind), DATABASE_SECONDS.labels(kind), DATABASE_FAILURES.labels(kind))
    for kind in TRANSACTION_KINDS
}
