"""Limits that a message or a setting has reached: of the operator, the guild or the member."""

from __future__ import annotations

import math
from datetime import datetime

from bot.errors.base import BotError, Hint
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import LimitedBy


class AboveLimit(BotError):
    """A guild chose a value above the operator's limit."""

    def __init__(self, setting: str, limit: int, got: int) -> None:
        super().__init__(
            _(
                "`{setting}` can be {limit:,} at most, not {got:,}: that is what the owner of this bot allows. "
                "Nothing was changed."
            ).format(setting=setting, limit=limit, got=got)
        )


class LimitReached(Hint):
    """A member, or a guild as a whole (`by`), has asked for as much as it may for now. Nothing was stored."""

    def __init__(self, user_message: str, by: LimitedBy, returns_at: datetime) -> None:
        super().__init__(user_message)
        self.by: LimitedBy = by
        self.returns_at = returns_at


class TooManyMessages(LimitReached):
    """More messages came than may come in a minute."""

    def __init__(self, limit: int, by: LimitedBy, returns_at: datetime) -> None:
        if by == "member":
            text = ngettext(
                "That was fast! Here you can send me {number} message a minute. Ask me again {when}.",
                "That was fast! Here you can send me {number} messages a minute. Ask me again {when}.",
                limit,
            )
        else:
            text = ngettext(
                "Everybody is asking me at once: in this guild I take {number} message a minute. Ask me again {when}.",
                "Everybody is asking me at once: in this guild I take {number} messages a minute. Ask me again {when}.",
                limit,
            )
        message = text.format(number=f"{limit:,}", when=relative_time(returns_at))
        super().__init__(message, by, returns_at)


class QuotaUsedUp(LimitReached):
    """A daily quota is used up. `unit` is "turns" or "tokens"."""

    def __init__(self, unit: str, limit: int, resets_at: datetime, *, by: LimitedBy = "member") -> None:
        if by == "guild" and unit == "turns":
            text = ngettext(
                "That was all for today: all members of this guild together have {number} message a day. "
                "Ask me again after {time} UTC, {when}.",
                "That was all for today: all members of this guild together have {number} messages a day. "
                "Ask me again after {time} UTC, {when}.",
                limit,
            )
        elif by == "guild":
            text = ngettext(
                "That was all for today: all members of this guild together have {number} token a day. "
                "Ask me again after {time} UTC, {when}.",
                "That was all for today: all members of this guild together have {number} tokens a day. "
                "Ask me again after {time} UTC, {when}.",
                limit,
            )
        elif unit == "turns":
            text = ngettext(
                "That was all for today: here you have {number} message a day. Ask me again after {time} UTC, {when}.",
                "That was all for today: here you have {number} messages a day. Ask me again after {time} UTC, {when}.",
                limit,
            )
        else:
            text = ngettext(
                "That was all for today: here you have {number} token a day. Ask me again after {time} UTC, {when}.",
                "That was all for today: here you have {number} tokens a day. Ask me again after {time} UTC, {when}.",
                limit,
            )
        message = text.format(number=f"{limit:,}", time=f"{resets_at:%H:%M}", when=relative_time(resets_at))
        super().__init__(message, by, resets_at)


def relative_time(moment: datetime) -> str:
    """A moment as Discord shows it to each reader: "in 12 seconds". Rounded up, so that it is not too early."""
    return f"<t:{math.ceil(moment.timestamp())}:R>"
