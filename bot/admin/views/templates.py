"""Fills the templates. Everything is escaped but what `Markup` marks, which only this package's charts do."""

from __future__ import annotations

import unicodedata
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from models.types import EVERYBODY

FOLDER = Path(__file__).parent.parent


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "time": shown_time,
        "number": shown_number,
        "capped": capped,
        "words": shown_words,
        "speed": tokens_per_second,
        "seconds": shown_seconds,
    }
    environment.globals["EVERYBODY"] = EVERYBODY
    return environment


def render(template: str, **values: Any) -> str:
    """The page."""
    return _environment().get_template(template).render(**values)


def shown_time(value: datetime | date | None) -> Markup:
    """A time in UTC, to the second."""
    if value is None:
        return Markup("–")
    text = f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else f"{value:%Y-%m-%d}"
    return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), text)


def shown_number(value: float | None) -> str:
    """A number with separators, or a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def capped(value: int, most: int = 1000) -> str:
    """A number that was counted up to a limit."""
    return f"{most:,}+" if value > most else f"{value:,}"


def shown_seconds(milliseconds: int | None) -> str:
    """Milliseconds as seconds."""
    return "–" if milliseconds is None else f"{milliseconds / 1000:,.2f} s"


def tokens_per_second(turn: Any) -> str:
    """The speed of a reply after its first token."""
    if turn.first_token_ms is None or turn.total_ms is None or turn.completion_tokens is None:
        return "–"
    seconds = (turn.total_ms - turn.first_token_ms) / 1000
    return f"{(turn.completion_tokens - 1) / seconds:,.1f}" if seconds > 0 and turn.completion_tokens > 1 else "–"


def shown_words(text: str) -> Markup:
    """Text of others, on its own line direction; characters that cannot be seen, or turn the line, are named."""
    return escape("".join(_visible(char) for char in text))


def _visible(char: str) -> str:
    if char in "\n\t":
        return char
    if unicodedata.category(char) in ("Cc", "Cs") or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        return f"⟨U+{ord(char):04X}⟩"
    return char
