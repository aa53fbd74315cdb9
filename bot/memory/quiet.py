"""Times in which no reply is written or waited for, and work that is done only then.

The work is cancelled the moment a message arrives, so that the message waits for one step of the model at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class QuietTime:
    """Counts the replies that are written or waited for, and runs work while there are none."""

    def __init__(self) -> None:
        self._num_busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._work: asyncio.Task[Any] | None = None
        self.on_quiet: Callable[[], None] = lambda: None
        """Called at the end of the last reply."""

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """A block in which it is not quiet. Work that is being done is cancelled at once."""
        self._num_busy += 1
        self._quiet.clear()
        if self._work is not None:
            self._work.cancel()
        try:
            yield
        finally:
            self._num_busy -= 1
            if not self._num_busy:
                self._quiet.set()
                self.on_quiet()

    async def wait(self) -> None:
        """Wait until it is quiet."""
        await self._quiet.wait()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Do this work, if it is quiet. None if a message came first or in between. One piece of work at a time."""
        if self._num_busy or self._work is not None:
            return None
        self._work = task = asyncio.ensure_future(work())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise  # the caller was cancelled
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return None
        finally:
            self._work = None
