"""Lets the fake Discord forget a day: it keeps for tests all that it was sent, and a month of it would not fit."""

from __future__ import annotations

from tests.bench.month.town import Town
from tests.fakes.discord.server import FakeDiscord

KEPT_EVENTS = 200
"""Events of a session that the fake gateway keeps for a RESUME."""
FORGOTTEN = 0.3
"""Share of the members who lose sight of their last answer in a day: they neither reply to it nor press its buttons."""


def forget_the_day(discord: FakeDiscord, town: Town) -> list[str]:
    """Keep the members' last answers alone; return what broke a rule of Discord's."""
    rest = discord.rest
    violations = discord.violations
    rest.violations.clear()
    rest.requests.clear()
    rest.interactions.clear()
    rest.buckets.clear()
    for member in (member for home in town.homes for member in home.members):
        if member.last is not None and town.rng.random() < FORGOTTEN:
            member.last = None
    kept = {member.last.id for home in town.homes for member in home.members if member.last}
    for message in [each for each in rest.messages if each not in kept]:
        del rest.messages[message]
    for session in discord.gateway.sessions.values():
        old = max(0, len(session.sent) - KEPT_EVENTS)
        session.sent[:old] = [{}] * old  # an event's place in the list is its number
    return violations
