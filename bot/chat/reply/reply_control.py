"""The handle on a running reply: ends it when nothing comes for too long, or when it is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

_LONGEST_SILENCE = 900.0
"""Seconds that a model may think, or a server say nothing but that it lives. Discord's messages take no edit later."""
_EARLIER = 0.01
"""The part of the idle timeout by which it may end early: a timer set anew for each token costs too much."""

Reason = Literal["stopped", "shutdown", "filtered"]


class ReplyControl:
    """Ends one reply after `idle_timeout` seconds without a sign of life, or through `interrupt`."""

    def __init__(self, idle_timeout: float) -> None:
        self.reason: Reason | None = None
        """Why the reply was interrupted, if it was."""
        self.idle_timeout = idle_timeout
        self._scope: asyncio.Timeout | None = None
        self._silent_until = 0.0

    @asynccontextmanager
    async def queue_scope(self) -> AsyncIterator[None]:
        """The block that waits for earlier messages. It takes its time, and ends without an error when interrupted."""
        scope = self._scope = asyncio.timeout(0 if self.reason else None)
        try:
            async with scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            self._scope = None

    def scope(self) -> asyncio.Timeout:
        """The block that generates. It raises TimeoutError when it is ended from here."""
        self._scope = asyncio.timeout(0 if self.reason else self.idle_timeout)
        self._silent_until = self._longest_silence()
        return self._scope

    @property
    def expired(self) -> bool:
        """Whether the block was ended from here."""
        return self._scope is not None and self._scope.expired()

    def restart_timeout(self) -> None:
        """Text came: the idle timeout starts anew."""
        self._silent_until = self._longest_silence()
        self.sign_of_life()

    def sign_of_life(self) -> None:
        """Something came, if not text: the idle timeout starts anew, but a server may not go on so for ever."""
        if self._scope is not None and self.reason is None:
            until = min(asyncio.get_running_loop().time() + self.idle_timeout, self._silent_until)
            if until - (self._scope.when() or 0.0) > _EARLIER * self.idle_timeout:
                self._scope.reschedule(until)

    def _longest_silence(self) -> float:
        return asyncio.get_running_loop().time() + max(_LONGEST_SILENCE, self.idle_timeout)

    def interrupt(self, reason: Reason) -> bool:
        """End the reply now, or as soon as it begins. False if it has ended already."""
        try:
            if self._scope is not None:
                self._scope.reschedule(asyncio.get_running_loop().time())
        except RuntimeError:  # the block is being left, or was left already
            return False
        self.reason = self.reason or reason
        return True
