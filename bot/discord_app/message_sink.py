"""What shows the messages of a reply, and how it says that it cannot: the seam between a reply and Discord.

Knows neither how a reply grows nor Discord's API.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bot.discord_app.rest.request_pace import Turn, Urgency


class SinkClosed(Exception):
    """No message can be shown here any more: a retry cannot help."""


class MessageDeleted(SinkClosed):
    """The message was deleted while the reply was being written."""


class SinkUnreachable(SinkClosed):
    """The messages can no longer be edited, although they were not deleted (for example, the token expired)."""


class DeliveryTaken(SinkClosed):
    """The rest is shown by another process, which took this one for dead, or by a later attempt."""


class MessageSink(Protocol):
    """Where a reply is shown: message 0 exists already, `show` creates each later one on first use."""

    def turn(self, index: int, urgency: Urgency) -> AbstractAsyncContextManager[Turn | None]:
        """Wait until this message may be shown; `show` is called in the block."""

    async def show(
        self,
        index: int,
        text: str,
        *,
        live: bool,
        last: bool = False,
        file: str | None = None,
        turn: Turn | None = None,
    ) -> None:
        """Put `text` into a message. `live`: the reply is still growing. `file`: attach this text as a file.

        `last`: no message follows, of a finished reply. `turn`: what `turn` gave.

        Raises SinkClosed where a retry cannot help, and others where it may.
        """

    async def delete(self, index: int) -> None:
        """Delete a message that the finished reply does not need."""

    async def postpone(self) -> bool:
        """Leave the rest of a finished reply to a later attempt. False if no one would make it."""

    async def send_fallback(self, messages: Sequence[str], file: str | None, *, first: int = 0) -> None:
        """Deliver the rest of a finished reply, from message `first` on, once its messages cannot be edited."""
