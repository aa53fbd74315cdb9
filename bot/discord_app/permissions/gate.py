"""The gate that every interaction and message passes once, before it is served.

Commands and buttons pass it before they are deferred, so that a refusal is ephemeral. The gate hardly waits: an
interaction must be deferred within 3 s, and the database may be slower. It therefore applies a guild's own rules only
if they are cached, which they are while members use the bot there. If they are not, the command defers, reads them and
calls `authorise` again; a refusal then deletes the deferred response.
"""

from __future__ import annotations

from collections import OrderedDict

from bot.discord_app.caller import Caller
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise
from bot.errors import ShuttingDown
from bot.guilds.administration.blocks import MemberBlocks
from bot.guilds.settings.settings_cache import GuildSettingsCache

_MAX_SEEN = 10_000  # interaction ids kept to recognise repeats


class PermissionGate:
    """Admits each interaction and message once, if the member may do it and the bot is not shutting down."""

    def __init__(self, guild_settings: GuildSettingsCache, blocks: MemberBlocks) -> None:
        self.closed = False
        self._blocks = blocks
        self._guild_settings = guild_settings
        self._seen: OrderedDict[int, None] = OrderedDict()

    def is_repeat(self, event_id: int) -> bool:
        """Whether this interaction or message was seen before: a RESUME may replay one that was handled."""
        if event_id in self._seen:
            return True
        self._seen[event_id] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    async def admit(self, caller: Caller, action: Action) -> None:
        """`check`, once it is known who is blocked in the caller's guild; that is waited for only for the first one."""
        await self._blocks.ready(caller.guild_id)
        self.check(caller, action)

    def check(self, caller: Caller, action: Action) -> None:
        """Raise ShuttingDown once the gate is closed, and NotAllowed or MemberIsBlocked where `authorise` refuses.

        Replies may be stopped until the end: this process still writes some, and other processes write theirs.
        """
        if self.closed and action is not Action.STOP:
            raise ShuttingDown()
        block = self._blocks.known(caller.guild_id, caller.user_id)
        authorise(caller, action, self._guild_settings.known(caller.guild_id), block)
