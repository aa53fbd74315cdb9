"""A channel that refused the bot is left alone for an hour, and only for a refusal that is about the channel."""

from __future__ import annotations

from types import SimpleNamespace

import discord
import pytest

from bot.discord_app.rest.forbidden_channels import ChannelForbidden, ForbiddenChannels


def refuse(channels: ForbiddenChannels, channel_id: int, code: int, *, remember: bool = True) -> None:
    response = SimpleNamespace(status=403, reason="Forbidden")
    with pytest.raises(discord.Forbidden), channels.once(channel_id, remember=remember):
        raise discord.Forbidden(response, {"code": code, "message": "no"})  # type: ignore[arg-type]


def test_b34_a_refused_channel_is_left_alone_for_an_hour() -> None:
    now = [0.0]
    channels = ForbiddenChannels(lambda: now[0])
    refuse(channels, 1, 50013)
    with pytest.raises(ChannelForbidden), channels.once(1):
        pytest.fail("it was asked again")
    with channels.once(2):
        pass
    now[0] = 3601.0
    with channels.once(1):
        pass


@pytest.mark.parametrize("code", [160005, 200000, 240000, 50005])
def test_attack_a_text_that_is_refused_does_not_silence_the_channel(code: int) -> None:
    channels = ForbiddenChannels()
    refuse(channels, 1, code)
    with channels.once(1):
        pass


def test_a_channel_that_takes_no_files_may_take_messages() -> None:
    channels = ForbiddenChannels()
    refuse(channels, 1, 50013, remember=False)
    with channels.once(1):
        pass
