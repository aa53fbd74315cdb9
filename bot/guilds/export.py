"""Exports: a dialog as Markdown for people, any rows as JSON for programs. Pure: rows in, text out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import date

from models.queries.inspection import DialogLine, TurnLine


def dialog_markdown(dialog: DialogLine, turns: tuple[TurnLine, ...]) -> str:
    """A readable transcript. Text is quoted, so that Markdown in a message does not change the document's structure."""
    where = "direct messages" if dialog.guild_id == 0 else f"guild {dialog.guild_id}"
    state = f"ended {dialog.ended_at:%Y-%m-%d %H:%M} UTC ({dialog.end_reason})" if dialog.ended_at else "open"
    lines = [f"# Dialog {dialog.dialog_id}", "", f"User {dialog.user_id} in {where}, {state}.", ""]
    for turn in turns:
        lines += [f"## {turn.created_at:%Y-%m-%d %H:%M} UTC", "", "**User**", "", _quoted(turn.user), ""]
        if turn.reply is None:
            lines += [f"*No reply: {turn.status}.*", ""]
        else:
            lines += ["**Bot**", "", _quoted(turn.reply), ""]
    return "\n".join(lines)


def dialog_data(dialog: DialogLine, turns: tuple[TurnLine, ...]) -> dict[str, object]:
    """The same for `as_json`."""
    return {"dialog": dialog, "turns": list(turns)}


def as_json(value: object) -> str:
    """Rows, or containers of rows, as indented JSON; times in ISO 8601, UTC."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=2) + "\n"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
