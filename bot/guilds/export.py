"""Exports: a dialog as Markdown for people, any rows as JSON for programs. Pure: rows in, text out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import date

from models.queries.inspection import DialogLine, TurnLine
from models.types import StoredFile


def dialog_markdown(dialog: DialogLine, turns: tuple[TurnLine, ...]) -> str:
    """A readable transcript. Text is quoted, so that Markdown in a message does not change the document's structure."""
    where = "direct messages" if dialog.guild_id == 0 else f"guild {dialog.guild_id}"
    state = open_state(dialog)
    if dialog.ended_at:
        state = f"ended {dialog.ended_at:%Y-%m-%d %H:%M} UTC ({dialog.end_reason})"
    lines = [f"# Dialog {dialog.dialog_id}", "", f"{owner_of(dialog)} in {where}, {state}.", ""]
    if dialog.name is not None:
        lines += ["Name:", "", quoted(dialog.name), ""]
    for turn in turns:
        lines += [f"## {turn.created_at:%Y-%m-%d %H:%M} UTC", "", f"**User{_author(dialog, turn)}**", ""]
        lines += [quoted(turn.user), ""]
        lines += files_markdown(turn.files)
        if turn.reply is None:
            lines += [f"*No reply: {turn.status}.*", ""]
        else:
            who = "**Bot**" if turn.answered_by is None else f"**Bot** as\n\n{quoted(turn.answered_by)}"
            lines += [who, "", quoted(turn.reply), ""]
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


def owner_of(dialog: DialogLine) -> str:
    """Whose dialog it is: a user's, or that of all members of a channel or thread."""
    return f"Shared in channel {dialog.channel_id}" if dialog.shared else f"User {dialog.user_id}"


def open_state(dialog: DialogLine) -> str:
    """The state of a dialog that has not ended."""
    return "parked" if dialog.parked_at else "open"


def _author(dialog: DialogLine, turn: TurnLine) -> str:
    return f" {turn.author_id}" if dialog.shared and turn.author_id is not None else ""


def files_markdown(files: Sequence[StoredFile]) -> list[str]:
    """Lines with the names and texts of the files that came with a message."""
    lines: list[str] = []
    for file in files:
        lines += ["File:", "", quoted(file.name), "", quoted(file.content), ""]
    return lines


def quoted(text: str) -> str:
    """A text as a block quote."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
