"""What an admin reads of a member, and the buttons below it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from discord.utils import escape_markdown, format_dt

from bot.cogs.admin.part import custom_id
from bot.cogs.dialogs.buttons import button, row
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import Block, MemberOverview

DAYS = 30
"""Days of use that are added up."""
LASTS: Mapping[str, timedelta | None] = {
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "forever": None,
}
"""How long a block may last, by the word in options."""


def lasts_labels() -> dict[str, str]:
    """How these are called."""
    return {
        "1h": _("1 hour"),
        "1d": _("1 day"),
        "7d": _("7 days"),
        "30d": _("30 days"),
        "forever": _("For good"),
    }


def member_text(user_id: int, seen: MemberOverview, rows: int, *, manages_guild: bool, left: Sequence[str] = ()) -> str:
    """Use, state and what is stored of a member in this guild. `left`: what is left of each limit, as they read it."""
    lines = [
        "### " + _("{member} in this guild").format(member=f"<@{user_id}>"),
        "- " + _("Today: {messages}, {tokens}").format(**_amounts(seen.messages_today, seen.tokens_today)),
        "- "
        + _("In the last {days} days: {messages}, {tokens}").format(days=DAYS, **_amounts(seen.messages, seen.tokens)),
    ]
    if seen.last_asked_at is not None:
        lines.append("- " + _("Last message: {moment}").format(moment=format_dt(seen.last_asked_at, "R")))
    stored = ngettext("Stored here: {number} record", "Stored here: {number} records", rows).format(number=f"{rows:,}")
    lines.append(f"- {stored}")
    lines.append(f"- {state_text(seen.block)}")
    if seen.block is not None and seen.block.reason is not None:
        reason = escape_markdown(" ".join(seen.block.reason.split()))
        lines.append("  - " + _("Reason: {reason}").format(reason=reason))
    if left:
        lines += ["**" + _("Left of their limits") + "**", *(f"- {line}" for line in left)]
    if manages_guild:
        lines.append("-# " + _("Members with Manage Server cannot be blocked: they could end the block themselves."))
    return "\n".join(lines)


def state_text(block: Block | None) -> str:
    """Whether a member is blocked, by whom, since when and until when."""
    if block is None:
        return _("Not blocked")
    values = {
        "admin": _("an admin") if block.blocked_by is None else f"<@{block.blocked_by}>",
        "since": format_dt(block.blocked_at, "f"),
    }
    if block.until is None:
        return _("**Blocked for good** by {admin} since {since}").format(**values)
    return _("**Blocked until {until}** by {admin} since {since}").format(until=format_dt(block.until, "f"), **values)


def member_buttons(user_id: int, block: Block | None, rows: int, *, manages_guild: bool) -> list[dict[str, Any]]:
    """Block, Unblock, Delete data: as far as they make sense."""
    buttons = []
    if not manages_guild:
        label = _("Block …") if block is None else _("Change the block …")
        buttons.append(button(label, custom_id("block", user_id)))
    if block is not None:
        buttons.append(button(_("Unblock"), custom_id("unblock", user_id)))
    if rows:
        buttons.append(button(_("Delete data …"), custom_id("delete", user_id, rows), danger=True))
    return row(*buttons) if buttons else []


def blocked_text(user_id: int, block: Block) -> str:
    """What an admin reads once a member is blocked."""
    member = f"<@{user_id}>"
    if block.until is None:
        done = _("{member} is blocked for good.").format(member=member)
    else:
        done = _("{member} is blocked until {moment}.").format(member=member, moment=format_dt(block.until, "f"))
    return done + " " + _("What I was writing for them is stopped.")


def unblocked_text(user_id: int, *, was: bool) -> str:
    """What an admin reads once a member is not blocked any more."""
    member = f"<@{user_id}>"
    if was:
        return _("{member} is not blocked any more.").format(member=member)
    return _("{member} was not blocked.").format(member=member)


def _amounts(messages: int, tokens: int) -> dict[str, str]:
    return {
        "messages": ngettext("{number} message", "{number} messages", messages).format(number=f"{messages:,}"),
        "tokens": ngettext("{number} token", "{number} tokens", tokens).format(number=f"{tokens:,}"),
    }
