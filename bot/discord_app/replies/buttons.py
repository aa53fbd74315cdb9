"""The buttons under a reply, as Discord's JSON. Pure functions.

A custom id is `word:arguments`: the word is an `Action`, the arguments begin with the id of the turn, so that a button
works after a restart and on replies of last week. Who may press it is decided when it is pressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.i18n.language import pgettext

_SECONDARY = 2
_MAX_IN_ROW = 5  # Discord's limit
_FILE_FROM = MESSAGE_LIMIT
"""Characters from which a reply is offered as a file: it takes more than one message."""


@dataclass(frozen=True, slots=True)
class ReplyState:
    """What the buttons under a stored reply depend on. `position` of `num_variants` counts from 1."""

    turn_id: int
    length: int
    cut_off: bool = False
    """Whether the reply ended at the length limit."""
    position: int = 1
    num_variants: int = 1
    may_have_thread: bool = False


def stop_buttons(user_id: int, question_id: int) -> list[dict[str, Any]]:
    """The button under a reply that is being written; `question_id`: the interaction or message that asked."""
    return [
        _row(_button(pgettext("button", "Stop"), "\N{BLACK SQUARE FOR STOP}\ufe0f", f"stop:{user_id}:{question_id}"))
    ]


def reply_buttons(state: ReplyState) -> list[dict[str, Any]]:
    """The buttons under a finished reply."""
    turn = state.turn_id
    again = "\N{CLOCKWISE RIGHTWARDS AND LEFTWARDS OPEN CIRCLE ARROWS}"
    buttons = [_button(pgettext("button", "Regenerate"), again, f"regenerate:{turn}")]
    if state.cut_off:
        buttons.append(
            _button(pgettext("button", "Continue"), "\N{BLACK RIGHT-POINTING TRIANGLE}\ufe0f", f"continue:{turn}")
        )
    buttons.append(_button(pgettext("button", "Edit"), "\N{PENCIL}\ufe0f", f"edit:{turn}"))
    buttons.append(_button(pgettext("button", "Forget"), "\N{WASTEBASKET}\ufe0f", f"forget:{turn}"))
    if state.length > _FILE_FROM:
        buttons.append(_button(pgettext("button", "As file"), "\N{PAGE FACING UP}", f"file:{turn}"))
    if state.may_have_thread:
        buttons.append(_button(pgettext("button", "Thread"), "\N{SPOOL OF THREAD}", f"thread:{turn}"))
    rows = [_row(*buttons[:_MAX_IN_ROW])]
    if buttons[_MAX_IN_ROW:]:
        rows.append(_row(*buttons[_MAX_IN_ROW:]))
    if state.num_variants > 1:
        rows.append(_variant_row(state))
    return rows


def _variant_row(state: ReplyState) -> dict[str, Any]:
    """◀ 2/3 ▶: to the reply before and after the one that is shown."""
    before, after = state.position - 1, state.position + 1
    back = _button("", "\N{BLACK LEFT-POINTING TRIANGLE}\ufe0f", f"variant:{state.turn_id}:{before}")
    shown = _button(f"{state.position}/{state.num_variants}", None, f"variant:{state.turn_id}:shown")
    forth = _button("", "\N{BLACK RIGHT-POINTING TRIANGLE}\ufe0f", f"variant:{state.turn_id}:{after}")
    return _row(
        back | {"disabled": before < 1}, shown | {"disabled": True}, forth | {"disabled": after > state.num_variants}
    )


def _row(*buttons: dict[str, Any]) -> dict[str, Any]:
    return {"type": 1, "components": list(buttons)}


def _button(label: str, emoji: str | None, custom_id: str) -> dict[str, Any]:
    button: dict[str, Any] = {"type": 2, "style": _SECONDARY, "custom_id": custom_id}
    if label:
        button["label"] = label
    if emoji is not None:
        button["emoji"] = {"name": emoji}
    return button
