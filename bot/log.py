"""Configures the log: structlog's events and the standard library's records, all through one handler to stderr.

An event within a message has the ids of its guild and turn, from the context (`bot.discord_app.replies.conversation`,
`bot.chat.turn_runner`), and with traces the id of its trace.

Every line is redacted: interaction and webhook tokens in URLs, passwords in database URLs, and the values of our own
secret settings. No member's words are logged but at DEBUG: an error that nobody foresaw may quote them, so that its
type and its traceback are logged without its text.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import structlog
from pydantic import SecretStr

from bot.errors import BotError
from bot.settings import Settings
from bot.telemetry.metrics import LOG_LEVELS, LOG_LINES
from bot.telemetry.tracing import trace_id

HIDDEN = "[hidden]"
_PATTERNS = (
    (re.compile(r"(/webhooks/\d+/)[^/\s?\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(/interactions/\d+/)[^/\s?\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+(@)"), rf"\1{HIDDEN}\2"),
    (re.compile(r"\b((?:Bot|Bearer) )[\w.~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"""(["']?(?:token|api_key|password)["']?\s*[:=]\s*["']?)[\w.~+/=-]{8,}"""), rf"\1{HIDDEN}"),
)
_MIN_LEVELS = {
    # At DEBUG these log whole requests, with bodies and tokens.
    "discord": logging.INFO,
    "discord.http": logging.INFO,
    "openai": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore2": logging.WARNING,
    "apscheduler": logging.WARNING,
    "alembic": logging.WARNING,
    "aiosqlite": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "asyncio": logging.WARNING,
    "opentelemetry": logging.CRITICAL,  # `bot.telemetry.span_export` says what is lost
}
Event = MutableMapping[str, Any]


def redactor(secrets: tuple[str, ...] = ()) -> Callable[[str], str]:
    """A function that redacts these secrets, and anything that looks like a secret, in a text."""
    known = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, HIDDEN)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    return redact


def reason_of(error: BaseException) -> str:
    """Why something was refused, in words of ours alone: what an error says to a member may quote the member.

    An error that has no reason for the log says where it was raised.
    """
    if isinstance(error, BotError) and error.reason:
        return error.reason
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    last = frames[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"


def configure_log(settings: Settings, *, level: str | None = None) -> None:
    """Configure logging for this process. `level` overrides the level of the settings."""
    redact = redactor(_secrets(settings))

    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_trace,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shows_words = logging.getLevelNamesMapping()[level or settings.log_level] <= logging.DEBUG
    renderer: list[structlog.types.Processor] = [] if shows_words else [_without_words]
    renderer += (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if settings.log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )

    def redact_line(_: object, __: str, line: Any) -> str:
        """The last processor: it gets the line that the renderer has made of the event."""
        return redact(line)

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer, redact_line],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_is_not_cancellation)
    handler.addFilter(_count)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level or settings.log_level)
    for name, min_level in _MIN_LEVELS.items():
        logging.getLogger(name).setLevel(max(min_level, root.level))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _without_words(_: object, __: str, event: Event) -> Event:
    """The event with the traceback of an exception, but not its text."""
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info if isinstance(info, BaseException) else info and info[1]
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_wordless(error))
    return event


def _wordless(error: BaseException) -> Iterator[str]:
    """The lines of a traceback: code, and types of errors. Of the operating system's errors also what they mean."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _wordless(before)
        yield "The next error followed from that:"
    yield from "".join(traceback.format_tb(error.__traceback__)).splitlines()
    number = error.errno if isinstance(error, OSError) else None
    yield type(error).__qualname__ + (f": {os.strerror(number)}" if isinstance(number, int) else "")
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _wordless(each)


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """False for a cancelled job: APScheduler logs it as an error, but we stop jobs by cancelling them.

    asyncio logs with `exc_info=False` what it has no exception for, and the record keeps that.
    """
    return not record.exc_info or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _count(record: logging.LogRecord) -> bool:
    """Count what an operator may want to be called for. Always True: nothing is dropped."""
    level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
    if level in LOG_LEVELS:
        LOG_LINES.labels(level).inc()
    return True


def _with_trace(_: object, __: str, event: Event) -> Event:
    """The event with the id of the trace that it is part of, if there is one."""
    found = trace_id()
    if found is not None:
        event.setdefault("trace", found)
    return event


def _secrets(settings: Settings) -> tuple[str, ...]:
    """The values of all secret settings, and of a list of keys each one."""
    values = [getattr(settings, name) for name in type(settings).model_fields]
    texts = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    keys = [key for model in settings.listed_models for _, key in settings.servers_of(model) if key]
    return (*(part for text in texts for part in (text, *re.split(r"[,\s]+", text))), *keys)
