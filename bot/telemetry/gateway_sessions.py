"""Which of the process's connections have a session with Discord's gateway, as one number: 1 while all of them have.

A process has one connection, or one for each of its shards. Knows nothing of what a connection is.
"""

from __future__ import annotations

from collections.abc import Hashable

from bot.telemetry.metrics import GATEWAY_CONNECTED


class GatewaySessions:
    """The connections that have had a session, until they are given up."""

    def __init__(self) -> None:
        self._connected: dict[Hashable, bool] = {}

    def opened(self, connection: Hashable) -> None:
        """It has a session, a new one or that of before."""
        self._connected[connection] = True
        self._show()

    def lost(self, connection: Hashable) -> None:
        """Its session broke off, and it will try again."""
        if connection in self._connected:
            self._connected[connection] = False
            self._show()

    def given_up(self, connection: Hashable) -> None:
        """It will not try again: another process has its shard, or this one ends."""
        if self._connected.pop(connection, None) is not None:
            self._show()

    def _show(self) -> None:
        GATEWAY_CONNECTED.set(bool(self._connected) and all(self._connected.values()))


GATEWAY_SESSIONS = GatewaySessions()
"""Those of this process, whose metrics are one page."""
