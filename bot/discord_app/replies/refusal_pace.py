"""How often a refusal is said in a channel: a flood of messages must not become a flood of refusals.

A member's own limit is said to them once a minute in a channel; that of a guild, or that many wait, once a minute in a
channel to everybody together.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import discord

from bot.discord_app.cooldowns import Cooldowns
from bot.errors import BotError, LimitReached

_INTERVAL = 60.0


class RefusalPace:
    """Remembers when which refusal was said."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._said: Cooldowns[tuple[int, int]] = Cooldowns(_INTERVAL, clock)

    def may_say(self, error: BotError, message: discord.Message) -> bool:
        """Whether this refusal of this message is said now."""
        whose = message.author.id if isinstance(error, LimitReached) and error.by == "member" else 0
        return self._said.is_due((message.channel.id, whose))
