"""What a file of settings would change, as text in Discord's Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cogs.settings_panel.entries import shown_value
from bot.cogs.settings_panel.guild_entries import guild_entries
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.guilds.settings.settings_file.importing import Imported
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from bot.settings import Settings
from models.types import GuildSettings

_MAX_LINE, _MAX_SKIPPED = 900, 10
_MORE_CHARS = 60
"""Room for the line that counts the changes for which there is none."""


def change_lines(old: GuildSettings, new: GuildSettings, operator: Settings) -> list[str]:
    """One line for each setting that would change, with both values."""
    before, after = guild_entries(old, operator), guild_entries(new, operator)
    return [
        f"- {was.title}: {_before_and_after(shown_value(was, old), shown_value(now, new))}"
        for was, now in zip(before, after, strict=True)
        if was.read(old) != now.read(new)
    ]


def question_text(changes: Sequence[str], found: Imported, *, note: str = "") -> str:
    """What would change, within one message. `note`: what has just happened."""
    head = ngettext(
        "This file would change {number} setting:", "This file would change {number} settings:", len(changes)
    ).format(number=len(changes))
    around = [*filter(None, (note, head)), *left_out_lines(found)]
    room = MESSAGE_LIMIT - utf16_length("\n".join(around)) - _MORE_CHARS
    return "\n".join([*filter(None, (note, head)), *_fitting(changes, room), *left_out_lines(found)])


def left_out_lines(found: Imported) -> list[str]:
    """What of the file does not exist in this guild."""
    lines = []
    if found.skipped:
        more = len(found.skipped) - _MAX_SKIPPED
        named = ", ".join(found.skipped[:_MAX_SKIPPED]) + (f" (+{more})" if more > 0 else "")
        lines.append("-# " + _("Not in this guild, so left out: {names}.").format(names=named))
    if found.kept:
        named = ", ".join(f"`{each}`" for each in found.kept)
        lines.append("-# " + _("Left as it is, since nothing of it exists here: {names}.").format(names=named))
    return lines


def _before_and_after(before: str, after: str) -> str:
    """Both values; of filtered words only the number is said, which may be the same of others."""
    if before == after:
        return _("{value}, but others than now").format(value=after)
    return f"{before} → {after}"


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    """As many lines as there is room for, long ones cut, and how many more there are."""
    most = min(_MAX_LINE, room)
    shown: list[str] = []
    for line in lines:
        cut = line if len(line) <= most else f"{line[: most - 1]}…"
        if utf16_length("\n".join([*shown, cut])) > room:
            more = len(lines) - len(shown)
            return [*shown, "- " + ngettext("and {number} more", "and {number} more", more).format(number=more)]
        shown.append(cut)
    return shown
