"""Limits, what is left of them and how messages wait, as text in Discord's Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from discord.utils import snowflake_time

from bot.chat.queue.limiter import NowLeft
from bot.chat.queue.waiting import WaitingInfo
from bot.discord_app.replies.waiting_text import about, ordinal
from bot.errors import relative_time
from bot.guilds.settings.limits import OF_ROLES, OPERATORS, capped, shown_name
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from bot.settings import Settings
from models.queries.tenants.policy import day_after
from models.types import DayUsed, GuildSettings, LimitedBy, Limits

MAX_LISTED = 10
"""Waiting messages in one list."""
_ELSEWHERE = frozenset({"daily_turns", "daily_tokens"})
"""Limits that /config show has lines of its own for."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a member, or all members of a guild, have left."""

    by: LimitedBy
    limits: Limits
    now: NowLeft
    today: DayUsed


def quota_text(parts: Sequence[Left]) -> str:
    """What is left of each limit, and when it returns."""
    texts = []
    for part in parts:
        title = _("**You** have left here:") if part.by == "member" else _("**All members together** have left here:")
        texts.append("\n".join([title, *(f"- {line}" for line in left_lines(part))]))
    return "\n".join(texts)


def left_lines(part: Left) -> list[str]:
    """One line for each limit: what is left of it, and when it returns."""
    limits, now, today = part.limits, part.now, part.today
    lines = []
    if limits.minute_messages is not None and now.messages is not None:
        numbers = {"left": f"{now.messages:,}", "number": f"{limits.minute_messages:,}"}
        if now.all_back_at is None:
            lines.append(_("this minute: {left} of {number} messages").format(**numbers))
        else:
            when = relative_time(now.all_back_at)
            lines.append(_("this minute: {left} of {number} messages, all again {when}").format(**numbers, when=when))
    if limits.running_replies is not None:
        lines.append(
            _("at once: {number} answers, {running} of them now in progress").format(
                number=f"{limits.running_replies:,}", running=f"{now.running:,}"
            )
        )
    when = relative_time(day_after(today.day))
    if limits.daily_messages is None:
        lines.append(_("today: as many messages as you like; {used} so far").format(used=f"{today.messages:,}"))
    else:
        lines.append(
            _("today: {left} of {number} messages, all again {when}").format(
                left=f"{max(0, limits.daily_messages - today.messages):,}",
                number=f"{limits.daily_messages:,}",
                when=when,
            )
        )
    if limits.daily_tokens is None:
        lines.append(_("today: as many tokens as you like; {used} so far").format(used=f"{today.tokens:,}"))
    else:
        lines.append(
            _("today: {left} of {number} tokens, all again {when}").format(
                left=f"{max(0, limits.daily_tokens - today.tokens):,}",
                number=f"{limits.daily_tokens:,}",
                when=when,
            )
        )
    return lines


def queue_text(own: Sequence[WaitingInfo], num_waiting: int) -> str:
    """The member's own messages that wait, and how many wait in all."""
    if not own:
        head = _("None of your messages waits for an answer here.")
    else:
        head = ngettext(
            "{number} of your messages waits here:", "{number} of your messages wait here:", len(own)
        ).format(number=len(own))
    lines = [f"- {_waiting_line(number, each)}" for number, each in enumerate(own[:MAX_LISTED], 1)]
    if num_waiting == 0:
        tail = _("Nobody waits.") if not own else ""
    else:
        tail = ngettext("{number} message waits in all.", "{number} messages wait in all.", num_waiting).format(
            number=num_waiting
        )
    return "\n".join(filter(None, (head, *lines, tail)))


def _waiting_line(number: int, waiting: WaitingInfo) -> str:
    status = waiting.status
    sent = relative_time(snowflake_time(waiting.asked_by or 0))
    values = {"number": number, "sent": sent, "place": ordinal(status.place)}
    if status.loading:
        return _("message {number}, sent {sent}: {place} in line; the model is still loading").format(**values)
    if status.seconds is None:
        return _("message {number}, sent {sent}: {place} in line").format(**values)
    return _("message {number}, sent {sent}: {place} in line, {time}").format(**values, time=about(status.seconds))


def limit_lines(guild: GuildSettings, settings: Settings) -> list[str]:
    """The limits for `/config show`: what applies, and where it comes from."""
    lines = []
    for name, operators in OPERATORS.items():
        if name in _ELSEWHERE:
            continue
        chosen, most = getattr(guild, name), getattr(settings, operators)
        if chosen is None and most is None:
            continue
        lines.append(f"`limits {shown_name(name)}` {_number(chosen, most)}: {_meaning(name)}")
    roles = []
    for role in guild.roles:
        own = [(name, getattr(role, name)) for name in OF_ROLES if name != "daily_turns"]
        numbers = ", ".join(f"{shown_name(name)} {number:,}" for name, number in own if number is not None)
        if numbers:
            roles.append(f"<@&{role.role_id}> {numbers}")
    if roles:
        lines.append(_("`limits role` for members with a role: {roles}").format(roles="; ".join(roles)))
    return lines


def _meaning(name: str) -> str:
    meanings = {
        "minute_messages": _("messages a minute of a member"),
        "running_replies": _("answers to a member at once"),
        "guild_minute_messages": _("messages a minute of all members"),
        "guild_running_replies": _("answers to all members at once"),
        "guild_daily_turns": _("messages a day of all members"),
        "guild_daily_tokens": _("tokens a day of all members"),
    }
    return meanings[name]


def _number(chosen: int | None, most: int | None) -> str:
    applies = capped(chosen, most)
    number = f"{applies:,}" if applies is not None else ""
    if chosen is None:
        return _("**{number}** (the default)").format(number=number)
    if most is not None and chosen > most:
        return _("**{number}** ({chosen} was chosen; the owner of this bot allows less now)").format(
            number=number, chosen=f"{chosen:,}"
        )
    if most is None:
        return _("**{number}** (chosen)").format(number=number)
    return _("**{number}** (chosen; {most} is the default and the most)").format(number=number, most=f"{most:,}")
