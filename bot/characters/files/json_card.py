"""A card's JSON: parsed within limits, and written so that every value survives. Knows no fields. Pure.

What is kept is ASCII with escapes: half surrogates and NUL, which no database stores as text, survive in it.
"""

from __future__ import annotations

import json
import math
from typing import Any

from bot.characters.refused import MAX_CARD_BYTES, CardRefused, not_a_card, too_large
from bot.i18n.language import gettext as _

_MAX_DEPTH = 100
"""Of arrays and objects in one another: a card has seven, and what extensions add."""


def read_json(data: bytes) -> dict[str, Any]:
    """The object in these bytes. Raises CardRefused."""
    if len(data) > MAX_CARD_BYTES:
        raise too_large()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise not_a_card(_("its text is not UTF-8")) from None
    return parse(text)


def parse(text: str) -> dict[str, Any]:
    """The same of a text. Numbers that JSON does not have (NaN, or too large for any reader) are refused."""
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except CardRefused:
        raise
    except (ValueError, RecursionError):  # a ValueError may quote the text, which is a member's
        raise not_a_card(_("its JSON is broken")) from None
    if not isinstance(value, dict):
        raise not_a_card(_("its JSON is not an object"))
    if _too_deep(value):
        raise not_a_card(_("its JSON is nested too deeply"))
    return value


def write(value: dict[str, Any]) -> str:
    """The object as one line of ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _no_constant(name: str) -> object:
    raise not_a_card(_("its JSON has the number {number}").format(number=name))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise not_a_card(_("its JSON has a number without end"))
    return value


def _too_deep(value: object) -> bool:
    level: list[object] = [value]
    for _level in range(_MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
