"""Whether the bot itself is where an interaction comes from, and what that takes from the caller."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import discord
import pytest

from bot.discord_app.caller import Caller, caller_of
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import NotAllowed, authorise
from models.types import GuildSettings

GUILD, ANN = 50, 7


def interaction(
    *, guild_id: int | None = GUILD, owners: dict[int, int] | None = None, known: tuple[int, ...] = (GUILD,),
    private: bool = False, channel: discord.ChannelType = discord.ChannelType.text,
) -> Any:  # fmt: skip
    """What discord.py makes of an interaction of Ann, who is an admin in every guild."""
    return SimpleNamespace(
        user=SimpleNamespace(id=ANN, display_name="Ann"),
        guild_id=guild_id,
        channel_id=9,
        channel=SimpleNamespace(type=channel),
        context=discord.app_commands.AppCommandContext(private_channel=private),
        permissions=discord.Permissions(administrator=guild_id is not None),
        client=SimpleNamespace(get_guild={each: object() for each in known}.get),
        _integration_owners=owners or {},
    )


@pytest.mark.parametrize("owners", [{0: GUILD}, {0: GUILD, 1: ANN}, {}], ids=["guild", "guild and user", "not said"])
def test_in_a_guild_of_the_bot_its_managers_manage_it(owners: dict[int, int]) -> None:
    caller = caller_of(interaction(owners=owners))
    assert (caller.guild_id, caller.manages_guild, caller.bot_is_absent) == (GUILD, True, False)


@pytest.mark.parametrize(
    "given",
    [
        interaction(owners={1: ANN}),  # the bot is in the guild, which has not installed its commands
        interaction(owners={1: ANN}, known=()),
        interaction(owners={0: GUILD}, known=()),  # only commands were installed: no event would tell of the guild
        interaction(owners={0: 51}),  # another guild's installation
        interaction(owners={1: 8}, known=()),  # a button under the answer to someone else
        interaction(guild_id=None, private=True),
        interaction(guild_id=None, channel=discord.ChannelType.group),
    ],
)
def test_b04_elsewhere_a_caller_has_no_guild_and_manages_nothing(given: Any) -> None:
    caller = caller_of(given)
    assert caller == Caller(ANN, 0, 9, 9, "Ann", bot_is_absent=True)
    for action in (Action.CONFIG, Action.GUILD_PERSONA):
        with pytest.raises(NotAllowed, match="only in a guild that has invited me"):
            authorise(caller, action, GuildSettings())
    authorise(caller, Action.CHAT, GuildSettings())


def test_direct_messages_with_the_bot_are_a_place_of_the_bot() -> None:
    caller = caller_of(interaction(guild_id=None, owners={0: 0, 1: ANN}, channel=discord.ChannelType.private))
    assert (caller.guild_id, caller.manages_guild, caller.bot_is_absent) == (0, False, False)
