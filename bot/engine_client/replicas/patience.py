"""How long a server may be silent before its first token, where another one could be asked instead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable


class Patience:
    """Waits for a first token; ends the wait after a silence, as soon as another server could be asked."""

    def __init__(self, seconds: float, on_activity: Callable[[], None], has_other: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._on_activity = on_activity
        self._has_other = has_other
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._scope: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_over = False

    @property
    def seconds_silent(self) -> float:
        """Since the last sign of life."""
        return self._loop.time() - self._last

    def sign_of_life(self) -> None:
        """Something came, if not a token."""
        self._last = self._loop.time()
        self._on_activity()

    @contextlib.asynccontextmanager
    async def scope(self) -> AsyncGenerator[None, None]:
        """The block that waits. It raises TimeoutError when it is ended from here, and `is_over` is then true."""
        self._timer = self._loop.call_later(self._seconds, self._look)
        try:
            async with asyncio.timeout(None) as self._scope:
                yield
        finally:
            self._scope = None
            if self._timer is not None:
                self._timer.cancel()

    def _look(self) -> None:
        if self._scope is None:
            return
        left = self._seconds - self.seconds_silent
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif not self._has_other():
            self._timer = self._loop.call_later(max(0.05, self._seconds / 4), self._look)
        else:
            self.is_over = True
            self._scope.reschedule(self._loop.time())
