"""Reads the decorators of version 3 at the beginning of a lorebook entry: `@@depth 4` and others. Pure.

Known are those that a chat without a screen of its own can follow. A decorator that is not known, or whose value makes
no sense, gives way to its fallbacks (`@@@`); the preview names those of which nothing is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_LINE = re.compile(r"(@@@?)\s*([A-Za-z_][A-Za-z0-9_]{0,40})[ \t:]*(.*)\Z")
_MAX_LINES = 100
_ALIASES = {"activate_after": "activate_only_after", "activate_every": "activate_only_every"}
POSITIONS = ("before_desc", "after_desc", "personality", "scenario")


@dataclass(frozen=True, slots=True)
class Decorators:
    """What the decorators of one entry ask for. None: they say nothing of it."""

    depth: int | None = None
    scan_depth: int | None = None
    only_after: int = 0
    only_every: int = 0
    greeting: int | None = None
    position: str | None = None
    additional_keys: tuple[tuple[str, ...], ...] = ()
    exclude_keys: tuple[str, ...] = ()
    activate: bool = False
    dont_activate: bool = False
    keep_after_match: bool = False
    dont_after_match: bool = False
    ignore_on_max_context: bool = False
    ignored: tuple[str, ...] = ()
    """Names of those that are not followed, nor any fallback of theirs."""


NO_DECORATORS = Decorators()


def split_decorators(content: str) -> tuple[Decorators, str]:
    """The decorators before the content, and the content without them."""
    if not content.lstrip().startswith("@@"):
        return NO_DECORATORS, content
    lines = content.strip("\r\n").splitlines()
    found: dict[str, object] = {}
    additional: list[tuple[str, ...]] = []
    ignored: list[str] = []
    is_open = False  # the last decorator was not followed, so its fallback counts
    number = 0
    for number, line in enumerate(lines):
        stripped = line.strip()
        if not stripped and number < _MAX_LINES:
            continue
        match = _LINE.match(stripped)
        if match is None or number >= _MAX_LINES:
            break
        is_fallback, name, value = match[1] == "@@@", match[2].lower(), match[3].strip()
        if is_fallback and not is_open:
            continue
        name = _ALIASES.get(name, name)
        parsed = _parsed(name, value)
        if is_fallback and parsed is not None:
            ignored.pop()
        elif not is_fallback and parsed is None:
            ignored.append(name)
        is_open = parsed is None
        if name == "additional_keys" and isinstance(parsed, tuple):
            additional.append(parsed)
        elif parsed is not None:
            found.setdefault(name, parsed)
    else:
        number = len(lines)
    content = "\n".join(lines[number:]).strip("\r\n")
    fields = {_FIELDS[name]: value for name, value in found.items()}
    decorators = Decorators(**fields, additional_keys=tuple(additional), ignored=tuple(ignored))  # type: ignore[arg-type]
    return decorators, content


def _parsed(name: str, value: str) -> object | None:
    """The value of a decorator that is followed; None for others."""
    reader = _READERS.get(name)
    return None if reader is None else reader(value)


def _count(value: str) -> int | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return max(0, int(number)) if abs(number) < 1e9 else None


def _positive(value: str) -> int | None:
    return _count(value) or None


def _keys(value: str) -> tuple[str, ...] | None:
    return tuple(key.strip() for key in value.split(",") if key.strip()) or None


def _position(value: str) -> str | None:
    return value if value in POSITIONS else None


def _present(value: str) -> bool:
    return True


_READERS: dict[str, Callable[[str], object | None]] = {
    "depth": _count,
    "scan_depth": _count,
    "activate_only_after": _count,
    "activate_only_every": _positive,
    "is_greeting": _count,
    "position": _position,
    "additional_keys": _keys,
    "exclude_keys": _keys,
    "activate": _present,
    "dont_activate": _present,
    "keep_activate_after_match": _present,
    "dont_activate_after_match": _present,
    "ignore_on_max_context": _present,
}
_FIELDS = {
    "depth": "depth",
    "scan_depth": "scan_depth",
    "activate_only_after": "only_after",
    "activate_only_every": "only_every",
    "is_greeting": "greeting",
    "position": "position",
    "exclude_keys": "exclude_keys",
    "activate": "activate",
    "dont_activate": "dont_activate",
    "keep_activate_after_match": "keep_after_match",
    "dont_activate_after_match": "dont_after_match",
    "ignore_on_max_context": "ignore_on_max_context",
}
