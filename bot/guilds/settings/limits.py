"""Which limits apply to a message: the operator's maxima, below them the guild's choice, below that the roles'.

Pure functions. A role's number replaces the guild's for its members, also where it is smaller; with several roles the
best one applies. Managers have no numbers of their own, but a role of theirs may have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bot.settings import Settings
from models.types import DIRECT_MESSAGES, GuildSettings, Limits, ReplyLimits

OPERATORS = {
    "minute_messages": "member_minute_messages",
    "running_replies": "member_running_replies",
    "daily_turns": "member_daily_messages",
    "daily_tokens": "member_daily_tokens",
    "guild_minute_messages": "guild_minute_messages",
    "guild_running_replies": "guild_running_replies",
    "guild_daily_turns": "guild_daily_messages",
    "guild_daily_tokens": "guild_daily_tokens",
}
"""The fields of `GuildSettings` that are limits, with the operator's setting that is default and maximum of each."""
OF_ROLES = ("minute_messages", "running_replies", "daily_turns", "daily_tokens")
"""Those of them that a role may have too, by the same name."""
MAX_MINUTE_MESSAGES, MAX_RUNNING_REPLIES, MAX_DAILY = 1_000_000, 100_000, 1_000_000_000
"""What the database can hold: the most that a guild may choose where the operator has no limit."""


def bounds(name: str) -> tuple[int, int]:
    """The least and the most of a limit, for any operator."""
    if name.endswith("minute_messages"):
        return 1, MAX_MINUTE_MESSAGES
    return (1, MAX_RUNNING_REPLIES) if name.endswith("running_replies") else (0, MAX_DAILY)


def limits_for(settings: Settings, guild_id: int, guild: GuildSettings, role_ids: Collection[int] = ()) -> ReplyLimits:
    """What applies to a member with these roles, and to the guild. Direct messages have no guild."""
    own = {name: _own(guild, role_ids, name) for name in OF_ROLES}
    member = {name: capped(own[name], getattr(settings, OPERATORS[name])) for name in OF_ROLES}
    return ReplyLimits(
        Limits(
            minute_messages=member["minute_messages"],
            running_replies=member["running_replies"],
            daily_messages=member["daily_turns"],
            daily_tokens=member["daily_tokens"],
        ),
        Limits() if guild_id == DIRECT_MESSAGES else _of_guild(settings, guild),
    )


def capped(chosen: int | None, most: int | None) -> int | None:
    """The number that applies: the chosen one, but no more than the operator allows, who may have changed it since."""
    return min((each for each in (chosen, most) if each is not None), default=None)


def limits_above(settings: Settings, before: GuildSettings, after: GuildSettings) -> Iterable[tuple[str, int, int]]:
    """Each number that a guild chose now and the operator does not allow: the limit's name, the most, and the number.

    One that was there before passes: a maximum that was lowered since must not prevent the change of another value.
    """
    for name, operators in OPERATORS.items():
        most = getattr(settings, operators)
        if most is None:
            continue
        chosen, was = {getattr(after, name)}, {getattr(before, name)}
        if name in OF_ROLES:
            chosen |= {getattr(role, name) for role in after.roles}
            was |= {getattr(role, name) for role in before.roles}
        for value in chosen - was - {None}:
            if value > most:
                yield shown_name(name), most, value


def shown_name(name: str) -> str:
    """A limit as /config names it: members send messages, and know nothing of turns."""
    return name.replace("turns", "messages")


def _own(guild: GuildSettings, role_ids: Collection[int], name: str) -> int | None:
    of_roles = [getattr(role, name) for role in guild.roles if role.role_id in role_ids]
    best: int | None = max((each for each in of_roles if each is not None), default=None)
    chosen: int | None = getattr(guild, name)
    return chosen if best is None else best


def _of_guild(settings: Settings, guild: GuildSettings) -> Limits:
    return Limits(
        minute_messages=capped(guild.guild_minute_messages, settings.guild_minute_messages),
        running_replies=capped(guild.guild_running_replies, settings.guild_running_replies),
        daily_messages=capped(guild.guild_daily_turns, settings.guild_daily_messages),
        daily_tokens=capped(guild.guild_daily_tokens, settings.guild_daily_tokens),
    )
