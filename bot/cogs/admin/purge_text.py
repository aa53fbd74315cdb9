"""What an admin reads before and after a deletion. Pure functions."""

from __future__ import annotations

from datetime import datetime

from discord.utils import format_dt

from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import PurgeCounts, PurgeScope


def question_text(scope: PurgeScope, counts: PurgeCounts) -> str:
    """What would be deleted, and what of it can be brought back."""
    lines = ["### " + _("This would be deleted"), *_count_lines(counts)]
    if scope.member_id is not None:
        lines.append(_("Of {member} alone.").format(member=f"<@{scope.member_id}>"))
    if scope.older_than is not None:
        lines.append(_("Only what was not used since {moment}.").format(moment=format_dt(scope.older_than, "f")))
    if counts.dialogs:
        lines.append(_("Conversations are hidden at once, and can be brought back for 10 minutes."))
        if scope.member_id is not None:
            lines.append(
                _(
                    "What they wrote in conversations that several members share stays: **Delete data** under "
                    "`/admin user` deletes that too."
                )
            )
    if counts.facts or counts.summaries or counts.personas:
        lines.append(_("Notes and personas are deleted at once, and **cannot be brought back**."))
    return "\n".join(lines)


def nothing_text() -> str:
    """There is nothing to delete."""
    return _("There is nothing of this kind to delete here.")


def done_text(counts: PurgeCounts, undo_until: datetime | None) -> str:
    """What was deleted, and until when conversations come back."""
    lines = ["### " + _("Deleted"), *_count_lines(counts)]
    if undo_until is not None:
        hidden = _("The conversations are hidden, and are deleted for good {moment}.")
        lines.append(hidden.format(moment=format_dt(undo_until, "R")))
    lines.append(_("The engine's memory of it is erased. It is in the audit log."))
    return "\n".join(lines)


def undone_text(dialogs: int | None) -> str:
    """What became of an undo."""
    if dialogs is None:
        return _("It is too late: the conversations are deleted, or were brought back already.")
    text = ngettext("{number} conversation is back.", "{number} conversations are back.", dialogs)
    return text.format(number=f"{dialogs:,}")


def _count_lines(counts: PurgeCounts) -> list[str]:
    lines = []
    if counts.dialogs:
        pairs = ngettext("{number} answer", "{number} answers", counts.pairs).format(number=f"{counts.pairs:,}")
        dialogs = ngettext(
            "{number} conversation with {answers}", "{number} conversations with {answers}", counts.dialogs
        )
        lines.append(dialogs.format(number=f"{counts.dialogs:,}", answers=pairs))
    if counts.facts:
        facts = ngettext("{number} note about members", "{number} notes about members", counts.facts)
        lines.append(facts.format(number=f"{counts.facts:,}"))
    if counts.summaries:
        summaries = ngettext(
            "{number} summary of a conversation", "{number} summaries of conversations", counts.summaries
        )
        lines.append(summaries.format(number=f"{counts.summaries:,}"))
    if counts.personas:
        personas = ngettext(
            "{number} persona, of the guild or of a member",
            "{number} personas, of the guild and of members",
            counts.personas,
        )
        lines.append(personas.format(number=f"{counts.personas:,}"))
    return [f"- {line}" for line in lines]
