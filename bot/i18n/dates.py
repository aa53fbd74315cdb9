"""Dates as they stand in sentences, in the current language. Where a client shows them, Discord's `<t:…>` is better.

Times are UTC, as the database has them.
"""

from __future__ import annotations

from datetime import datetime

from babel.dates import format_datetime

from bot.i18n.language import current_language, pgettext


def day(moment: datetime) -> str:
    """Such as "29 Nov 2026"."""
    return _formatted(moment, pgettext("date", "dd MMM yyyy"))


def day_and_time(moment: datetime) -> str:
    """Such as "29 Nov, 11:44"."""
    return _formatted(moment, pgettext("date", "dd MMM, HH:mm"))


def _formatted(moment: datetime, pattern: str) -> str:
    return format_datetime(moment, pattern, locale=current_language())
