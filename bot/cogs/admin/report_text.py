"""Reports as admins read them, and the buttons below. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from discord.utils import escape_markdown, escape_mentions, format_dt

from bot.cogs.admin.part import custom_id
from bot.cogs.dialogs.buttons import button, row
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import ReportDetails, ReportLine

PAGE = 5
"""Reports on a page of the list."""
_LISTED_REASON, _BRIEF_REASON = 150, 60  # characters in the list; the brief ones of a page always fit
_MAX_REASON, _MAX_QUESTION, _MAX_REPLY = 300, 500, 700  # characters that are shown; the copy as a file has all


def list_text(lines: Sequence[ReportLine], num_open: int, num_all: int, channel_id: int | None, days: int) -> str:
    """A page of the list, within one message."""
    head = "### " + _("Reported answers")
    if not num_all:
        text = head + "\n" + _("Nothing is reported.")
    else:
        counted = ngettext("{number} report, {open} open", "{number} reports, {open} open", num_all)
        text = f"{head}\n{counted.format(number=num_all, open=num_open)}"
    notice = (
        _("No channel is told of new reports: the option `channel` of this command chooses one.")
        if channel_id is None
        else _("{channel} is told of new reports, without their words.").format(channel=f"<#{channel_id}>")
    )
    kept = _("A report is deleted {days} days after it was made.").format(days=days)
    whole, brief = (
        "\n".join([text, *(_line_text(each, most) for each in lines), f"-# {notice} {kept}"])
        for most in (_LISTED_REASON, _BRIEF_REASON)
    )
    return whole if utf16_length(whole) <= MESSAGE_LIMIT else brief


def list_buttons(
    lines: Sequence[ReportLine], *, older: bool, newer: bool, channel_id: int | None
) -> list[dict[str, Any]]:
    """A menu of the reports on the page, the pages before and after, and the end of notices."""
    rows: list[dict[str, Any]] = []
    if lines:
        options = [
            {"label": _("Report {number}").format(number=each.report_id), "value": str(each.report_id)}
            for each in lines
        ]
        menu = {"type": 3, "custom_id": custom_id("reported"), "options": options, "placeholder": _("Read a report")}
        rows.append({"type": 1, "components": [menu]})
    buttons = []
    if older or newer:
        oldest, newest = lines[-1].report_id if lines else 0, lines[0].report_id if lines else 0
        buttons.append(button(_("Older"), custom_id("reports", "before", oldest), disabled=not older))
        buttons.append(button(_("Newer"), custom_id("reports", "after", newest), disabled=not newer))
    if channel_id is not None:
        buttons.append(button(_("Tell no channel"), custom_id("reports-quiet")))
    return [*rows, *(row(*buttons) if buttons else [])]


def details_text(report: ReportDetails) -> str:
    """One report, as far as a message has room for it."""
    answer = report.answer
    lines = ["### " + _("Report {number}").format(number=report.line.report_id), _who(report.line)]
    if report.line.reason is not None:
        lines += ["**" + _("What the member says") + "**", _quoted(report.line.reason, _MAX_REASON)]
    lines += ["**" + _("The message") + "**", _quoted(answer.question, _MAX_QUESTION)]
    lines += ["**" + _("The answer") + "**", _quoted(answer.reply, _MAX_REPLY)]
    if answer.prompt is None:
        note = _("The prompt is not here: it was not recorded, or somebody whose words were in it had them deleted.")
    elif answer.exact:
        note = _("The file has everything in full, with the prompt exactly as it was sent.")
    else:
        note = _("The file has everything in full, with the prompt as far as it could be built again.")
    return "\n".join([*lines, f"-# {note}"])


def details_buttons(line: ReportLine, *, sure: bool = False) -> list[dict[str, Any]]:
    """What can be done with a report. `sure`: Delete was pressed once."""
    closing = _("Close") if line.closed_at is None else _("Open again")
    return row(
        button(_("As a file"), custom_id("report-file", line.report_id)),
        button(closing, custom_id("report-close", line.report_id, int(line.closed_at is None))),
        button(
            _("Yes, delete it") if sure else _("Delete"),
            custom_id("report-delete", line.report_id, int(sure)),
            danger=True,
        ),
        button(_("All reports"), custom_id("reports", "all", 0)),
    )


def report_file(report: ReportDetails) -> str:
    """The whole copy, as plain text."""
    answer = report.answer
    parts = [
        _("Report {number}").format(number=report.line.report_id),
        f"{report.line.created_at:%Y-%m-%d %H:%M} UTC",
        "",
    ]
    for title, text in (
        (_("What the member says"), report.line.reason or ""),
        (_("The message"), answer.question),
        (_("The answer"), answer.reply),
    ):
        parts += [f"== {title} ==", text, ""]
    for position, message in enumerate(answer.prompt or ()):
        parts += [f"== {_('Prompt')} {position + 1}: {message.get('role', '')} ==", str(message.get("content", "")), ""]
    return "\n".join(parts)


def _line_text(line: ReportLine, most: int) -> str:
    title = "**" + _("Report {number}").format(number=line.report_id) + "**"
    reason = "" if line.reason is None else "\n" + _quoted(" ".join(line.reason.split()), most)
    return f"{title} · {_who(line)}{reason}"


def _who(line: ReportLine) -> str:
    values = {
        "author": f"<@{line.author_id}>",
        "reporter": _("a member") if line.reporter_id is None else f"<@{line.reporter_id}>",
        "channel": f"<#{line.channel_id}>",
        "moment": format_dt(line.created_at, "R"),
    }
    made = _("An answer to {author} in {channel}, reported by {reporter} {moment}").format(**values)
    if line.closed_at is None:
        return f"{made} · " + _("open")
    admin = _("an admin") if line.closed_by is None else f"<@{line.closed_by}>"
    return f"{made} · " + _("closed by {admin} {moment}").format(admin=admin, moment=format_dt(line.closed_at, "R"))


def _quoted(text: str, most: int) -> str:
    """A text as it was typed, in a quote, shortened."""
    short = text if len(text) <= most else text[: most - 1].rstrip() + "…"
    shown = escape_mentions(escape_markdown(short))
    return "\n".join(f"> {line}" for line in shown.split("\n"))
