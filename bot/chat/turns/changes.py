"""One change of a stored turn at a time: another reply, other words, another variant, or its end.

Knows turns by their ids, in this process only; knows neither what a change does nor the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from bot.errors import BotError
from bot.i18n.language import gettext as _

_SETTLE_TIMEOUT = 5.0
"""Seconds to wait for the end of a change whose result is shown."""


class TurnIsBusy(BotError):
    """The turn is being changed already."""

    def __init__(self) -> None:
        super().__init__(_("I am working on this answer already."))


@dataclass(slots=True)
class _Change:
    """A change in progress. `over` is set at its end; members may see its result before that."""

    is_shown: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class TurnChanges:
    """The changes in progress, by turn."""

    def __init__(self) -> None:
        self._running: dict[int, _Change] = {}

    @contextlib.contextmanager
    def try_hold(self, turn_id: int) -> Iterator[bool]:
        """Hold this turn in the block, if no other change does; yields whether it is held."""
        if turn_id in self._running:
            yield False
            return
        change = self._running[turn_id] = _Change()
        try:
            yield True
        finally:
            del self._running[turn_id]
            change.over.set()

    @contextlib.asynccontextmanager
    async def hold(self, turn_id: int) -> AsyncIterator[None]:
        """Hold this turn in the block, after a change whose result members see already. Raises TurnIsBusy."""
        await self._settled(turn_id)
        with self.try_hold(turn_id) as held:
            if not held:
                raise TurnIsBusy()
            yield

    def shows_result(self, turn_id: int) -> None:
        """The change of this turn is stored, and members see it from now on."""
        if (change := self._running.get(turn_id)) is not None:
            change.is_shown = True

    async def _settled(self, turn_id: int) -> None:
        """Wait for the end of a change whose result is already shown: a member may press the next button at once."""
        change = self._running.get(turn_id)
        if change is not None and change.is_shown:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_TIMEOUT):
                    await change.over.wait()
