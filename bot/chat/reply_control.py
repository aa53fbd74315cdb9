"""The handle on a running reply: ends it when no token comes for too long, or when it is interrupted."""

from __future__ import annotations

import asyncio
from typing import Literal

Reason = Literal["stopped", "shutdown"]


class ReplyControl:
    """Ends one reply after `idle_timeout` seconds without a token, or through `interrupt`."""

    def __init__(self, idle_timeout: float) -> None:
        self.reason: Reason | None = None
        """Why the reply was interrupted, if it was."""
        self.idle_timeout = idle_timeout
        self._scope: asyncio.Timeout | None = None

    def scope(self) -> asyncio.Timeout:
        """The block that generates. It raises TimeoutError when it is ended from here."""
        self._scope = asyncio.timeout(0 if self.reason else self.idle_timeout)
        return self._scope

    @property
    def expired(self) -> bool:
        """Whether the block was ended from here."""
        return self._scope is not None and self._scope.expired()

    def restart_timeout(self) -> None:
        """A token came: the idle timeout starts anew."""
        if self._scope is not None and self.reason is None:
            self._scope.reschedule(asyncio.get_running_loop().time() + self.idle_timeout)

    def interrupt(self, reason: Reason) -> bool:
        """End the reply now, or as soon as it begins. False if it has ended already."""
        self.reason = self.reason or reason
        if self._scope is None:
            return True
        try:
            self._scope.reschedule(asyncio.get_running_loop().time())
        except RuntimeError:  # the block was left already
            return False
        return True
