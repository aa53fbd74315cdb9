"""SIGHUP: reads the settings again and applies those that can change while the bot runs. The others wait for a restart.

What is applied here is read anew by its users for each message, command or cleanup, from the one settings object that
all of them have. Left out is what was handed on at the start (connections, the engine, shards, jobs and their pace,
queues), and what a prompt is recorded with, which must not change between its two transactions. Logs no value.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from bot.errors import ConfigError
from bot.log import configure_log
from bot.settings import PREFIX, Settings, load_settings

log = structlog.get_logger(__name__)

RELOADABLE = frozenset(
    {
        "log_level",
        "max_message_chars",
        "max_persona_chars",
        "max_character_chars",
        "member_minute_messages",
        "member_running_replies",
        "member_daily_messages",
        "member_daily_tokens",
        "guild_minute_messages",
        "guild_running_replies",
        "guild_daily_messages",
        "guild_daily_tokens",
        "max_reply_tokens",
        "temperature",
        "top_p",
        "frequency_penalty",
        "show_thinking_time",
        "reply_timeout",
        "shutdown_grace",
        "session_ttl",
        "retention_days",
        "report_retention_days",
        "privacy_policy_url",
        "privacy_contact",
    }
)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Names of variables whose values differ now: what was applied, and what needs a restart."""

    applied: tuple[str, ...]
    waiting: tuple[str, ...]


def reload_settings(settings: Settings) -> Reloaded:
    """Read environment and .env again, and change this object. Raises ConfigError, after which nothing has changed."""
    fresh = load_settings()
    changed = [name for name in Settings.model_fields if getattr(fresh, name) != getattr(settings, name)]
    applied = [name for name in changed if name in RELOADABLE]
    # For its users the object is frozen. They run in this thread, so each sees all new values or none.
    settings.__dict__.update({name: getattr(fresh, name) for name in applied})
    if "log_level" in applied:
        configure_log(settings)
    waiting = [name for name in changed if name not in RELOADABLE]
    return Reloaded(_variables(applied), _variables(waiting))


@contextmanager
def reloaded_by_hangup(settings: Settings) -> Iterator[None]:
    """Reload at each SIGHUP while the block runs. A bot whose terminal was closed gets SIGTERM instead, once."""
    loop = asyncio.get_running_loop()
    had_terminal, is_ending = _has_terminal(), False

    def on_hangup() -> None:
        nonlocal is_ending
        if is_ending:
            return  # a closed terminal may send SIGHUP more than once
        if had_terminal and not _has_terminal():
            is_ending = True
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            _reload(settings)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        if had_terminal and not _has_terminal():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the rest of the ending is not cut short


def _reload(settings: Settings) -> None:
    try:
        done = reload_settings(settings)
    except ConfigError as error:
        log.error("the settings stay as they were", error=error.line)
        return
    log.info("the settings were read again", applied=list(done.applied))
    if done.waiting:
        log.warning("settings that were changed wait for a restart", settings=list(done.waiting))


def _variables(names: list[str]) -> tuple[str, ...]:
    return tuple(f"{PREFIX}{name}".upper() for name in names)


def _has_terminal() -> bool:
    """Whether the terminal of standard error is there; one that was closed is none."""
    try:
        return os.isatty(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
