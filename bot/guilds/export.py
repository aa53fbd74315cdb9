"""A dialog as Markdown or JSON for people to keep. Pure: rows in, text out."""

from __future__ import annotations

from models.queries.inspection import DialogLine, TurnLine


def dialog_markdown(dialog: DialogLine, turns: tuple[TurnLine, ...]) -> str:
    """The pairs as a readable transcript. Text is quoted, so that nobody's Markdown becomes a heading of ours."""
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
    return {"dialog": dialog, "turns": list(turns)}


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
