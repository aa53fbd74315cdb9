"""The buttons under what a member reads of their conversations, as Discord's JSON. Pure functions.

A custom id is `word:what:arguments`. It says what to do and where to go on; whose dialogs those are is decided by who
presses.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
_SECONDARY, _DANGER = 2, 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def button(label: str, custom_id: str, *, danger: bool = False, disabled: bool = False) -> Json:
    """One button."""
    style = _DANGER if danger else _SECONDARY
    return {"type": 2, "style": style, "label": label, "custom_id": custom_id, "disabled": disabled}


def row(*buttons: Json) -> list[Json]:
    """Buttons side by side."""
    return [{"type": 1, "components": list(buttons)}]


def arrows(older: str | None, newer: str | None) -> list[Json]:
    """◀ ▶, to the page before and after; None where there is none. Without either, no buttons."""
    if older is None and newer is None:
        return []
    return row(
        _arrow("\N{BLACK LEFT-POINTING TRIANGLE}\ufe0f", older, "history:none:older"),
        _arrow("\N{BLACK RIGHT-POINTING TRIANGLE}\ufe0f", newer, "history:none:newer"),
    )


def _arrow(emoji: str, custom_id: str | None, placeholder: str) -> Json:
    return {
        "type": 2,
        "style": _SECONDARY,
        "emoji": {"name": emoji},
        "custom_id": custom_id or placeholder,
        "disabled": custom_id is None,
    }


def moment_id(moment: datetime) -> int:
    """A moment as a number of microseconds, exact."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_of(number: int) -> datetime:
    """The moment of a `moment_id`. OverflowError if there is none."""
    return _EPOCH + timedelta(microseconds=number)
