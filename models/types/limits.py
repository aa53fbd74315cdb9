"""How much a member, and a whole guild, may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

LimitedBy = Literal["member", "guild"]
"""Whose limit it is: a member's own, or that of all members of a guild together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers that apply to one member, or to a guild. None: no limit."""

    minute_messages: int | None = None
    running_replies: int | None = None
    """Replies that are written at the same time; more messages wait."""
    daily_messages: int | None = None
    daily_tokens: int | None = None
    """Of prompts and replies together. A day is a UTC day."""


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ReplyLimits:
    """What applies to one message: the numbers of its author, and those of the guild."""

    member: Limits = NO_LIMITS
    guild: Limits = NO_LIMITS

    @property
    def counts_usage(self) -> bool:
        """Whether the day's usage must be known, also that of a member who opted out."""
        return any(
            each is not None
            for limits in (self.member, self.guild)
            for each in (limits.daily_messages, limits.daily_tokens)
        )


@dataclass(frozen=True, slots=True)
class DayUsed:
    """What was used of a UTC day, by one member or by all members of a guild."""

    day: date
    messages: int = 0
    tokens: int = 0
