"""Which limits apply: operator's maxima, guild's numbers below, the best of a member's roles instead of the guild's."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bot.guilds.settings.limits import OF_ROLES, OPERATORS, limits_above, limits_for
from bot.settings import Settings
from models.types import DIRECT_MESSAGES, GuildSettings, Limits, RolePolicy

NUMBERS = st.one_of(st.none(), st.integers(1, 2000))


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def test_the_defaults_are_on() -> None:
    limits = limits_for(settings(), 1, GuildSettings())
    assert limits.member == Limits(minute_messages=30, running_replies=2)
    assert limits.guild == Limits(minute_messages=600, running_replies=64)
    assert limits_for(settings(), DIRECT_MESSAGES, GuildSettings()).guild == Limits()


@given(NUMBERS, NUMBERS, NUMBERS, st.sets(st.sampled_from([5, 6])), st.integers(1, 1000))
def test_the_best_role_replaces_the_guilds_number_below_the_operators(
    guild: int | None, five: int | None, six: int | None, roles: set[int], most: int
) -> None:
    roles_of_guild = (RolePolicy(5, running_replies=five), RolePolicy(6, running_replies=six))
    chosen = GuildSettings(running_replies=guild, roles=roles_of_guild)
    applies = limits_for(settings(member_running_replies=most), 1, chosen, roles).member.running_replies
    of_roles = [number for role, number in ((5, five), (6, six)) if role in roles and number is not None]
    wanted = max(of_roles) if of_roles else guild
    assert applies == (most if wanted is None else min(wanted, most))


def test_no_number_above_the_operators_is_taken_and_an_old_one_is_no_obstacle() -> None:
    most = settings(**dict.fromkeys(OPERATORS.values(), 5))
    six: dict[str, Any]
    for name in OPERATORS:
        six = {name: 6}
        [(shown, limit, got)] = limits_above(most, GuildSettings(), GuildSettings(**six))
        assert (limit, got) == (5, 6)
        assert "turns" not in shown
        assert not list(limits_above(most, GuildSettings(**six), GuildSettings(**six, locale="ko")))
    for name in OF_ROLES:
        six = {name: 6}
        above = GuildSettings(roles=(RolePolicy(1, **six),))
        assert [limit for _, limit, _ in limits_above(most, GuildSettings(), above)] == [5]
