"""The messages that wait for an earlier reply in their dialog, so that they can be refused before their turn comes.

Knows dialogs by their keys. Why a message is refused, and what its author reads of it, is up to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bot.errors import BotError
from models.types import DialogKey


class WaitingMessage:
    """One message, from its arrival until its turn has begun."""

    def __init__(self) -> None:
        self._scope: asyncio.Timeout | None = None
        self._error: BotError | None = None
        self._begun = False

    async def wait(self, turn: Awaitable[object]) -> None:
        """Wait for the message's turn. Raises the error with which it was refused meanwhile."""
        try:
            async with asyncio.timeout(None) as self._scope:
                await turn
        except TimeoutError:
            if self._error is None:
                raise
        finally:
            self._scope = None
        self._check()

    def begin(self) -> None:
        """The turn is stored and belongs to a dialog: from here on the message is not refused. Raises as `wait`."""
        self._check()
        self._begun = True

    def refuse(self, error: BotError) -> None:
        """Refuse the message, unless its turn has begun."""
        if self._begun or self._error is not None:
            return
        self._error = error
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class WaitingMessages:
    """The messages of all dialogs."""

    def __init__(self) -> None:
        self._by_dialog: dict[DialogKey, set[WaitingMessage]] = {}

    @asynccontextmanager
    async def entered(self, dialog: DialogKey) -> AsyncIterator[WaitingMessage]:
        """Count a message among those of its dialog until it is done."""
        message = WaitingMessage()
        messages = self._by_dialog.setdefault(dialog, set())
        messages.add(message)
        try:
            yield message
        finally:
            messages.discard(message)
            if not messages and self._by_dialog.get(dialog) is messages:
                del self._by_dialog[dialog]

    def refuse(self, applies: Callable[[DialogKey], bool], error: Callable[[], BotError]) -> None:
        """Refuse the messages of the dialogs to which this applies, each with an error of its own."""
        for dialog, messages in self._by_dialog.items():
            if applies(dialog):
                for message in messages:
                    message.refuse(error())
