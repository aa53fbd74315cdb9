"""Reads one field of a card's JSON: forgiving where a field is missing, strict where it has another type. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bot.characters.refused import CardRefused
from bot.i18n.language import NP_, pgettext
from bot.i18n.language import gettext as _


def text(data: Mapping[str, Any], name: str) -> str:
    """A text; "" if it is missing or null, and a number as it is written. Raises CardRefused for anything else."""
    value = data.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _wrong(name, NP_("kind of value", "a text"), value)


def texts(data: Mapping[str, Any], name: str, *, split: bool = False) -> tuple[str, ...]:
    """A list of texts; a single text counts as a list of one, or of its parts between commas if `split`."""
    value = data.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",")) if split else (value,)
    if not isinstance(value, list):
        raise _wrong(name, NP_("kind of value", "a list of texts"), value)
    return tuple(text({name: each}, name) for each in value if each is not None)


def number(data: Mapping[str, Any], name: str) -> float | None:
    """A number, also one that is written as a text; None if it is missing or is none."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(data: Mapping[str, Any], name: str, limit: int = 1_000_000_000) -> int | None:
    """The same, rounded down and kept between plus and minus `limit`."""
    found = number(data, name)
    return None if found is None else int(max(-limit, min(limit, found)))


def flag(data: Mapping[str, Any], name: str) -> bool | None:
    """A truth value, also one that is written as a text or a number; None if it is missing or is none."""
    value = data.get(name)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in {"true", "false", "1", "0"}:
        return value.strip().lower() in {"true", "1"}
    return None


def mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; empty if it is missing or null. Raises CardRefused for anything else."""
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(name, NP_("kind of value", "an object"), value)
    return value


_KINDS = {
    bool: NP_("kind of value", "true or false"),
    int: NP_("kind of value", "a number"),
    float: NP_("kind of value", "a number"),
    str: NP_("kind of value", "a text"),
    list: NP_("kind of value", "a list"),
    dict: NP_("kind of value", "an object"),
}


def _wrong(name: str, wanted: str, value: object) -> CardRefused:
    kind = _KINDS.get(type(value), NP_("kind of value", "something else"))
    text = _("The field `{name}` of this card must be {wanted}, and it is {kind}.")
    return CardRefused(
        text.format(name=name, wanted=pgettext("kind of value", wanted), kind=pgettext("kind of value", kind))
    )
