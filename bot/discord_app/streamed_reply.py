"""One reply as it is being written: few edits while it grows, the exact text when it is finished.

Knows pace, splitting and retries. Knows nothing of Discord's API: a `Surface` shows the messages, and tells by its
errors whether they are gone (deleted: nobody wants the reply any more) or out of reach (deliver it another way).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Protocol

import structlog

from bot.discord_app.message_split import split_message
from bot.errors import BotError

log = structlog.get_logger(__name__)

MAX_MESSAGES = 5
"""More messages than this would flood a channel, and is all that some interactions allow: the rest becomes a file."""
MAX_EDITS_PER_SECOND = 40.0
"""For all replies of this process together."""
NOTHING = "(no answer)"
THE_REST = "… The rest is in the attached file, which holds the whole answer."
_FIRST_EDIT = 0.4  # a reply that is finished by then takes a single edit
_SPACING = 1.0
_RETRIES = 5


class MessageDeleted(Exception):
    """The message was deleted while it was being written."""


class SinkUnreachable(Exception):
    """The messages cannot be reached any more, though nobody deleted them."""


class ReplyDeleted(BotError):
    """Ends a generation whose message was deleted."""

    def __init__(self) -> None:
        super().__init__("The message was deleted, so I stopped answering.", reason="the reply's message was deleted")


class MessageSink(Protocol):
    """Where a reply is shown: message 0 exists already, the others are made by their first `show`."""

    async def show(self, index: int, text: str, *, live: bool, file: str | None = None) -> None:
        """Put the text into a message. `live`: it is still growing. `file`: attach this text to it."""

    async def delete(self, index: int) -> None:
        """Take back a message that the finished reply does not need."""

    async def send_fallback(self, messages: Sequence[str], file: str | None) -> None:
        """Deliver a finished reply although its messages are out of reach."""


class EditRate:
    """How long to wait between two edits of one message, so that all the replies together stay within a budget."""

    def __init__(self) -> None:
        self.num_running = 0

    @property
    def interval(self) -> float:
        return max(_SPACING, self.num_running / MAX_EDITS_PER_SECOND)


class StreamedReply:
    """Shows a reply while it is generated. Newest wins: a slow edit delays the next one and queues nothing."""

    def __init__(self, sink: MessageSink, edit_rate: EditRate) -> None:
        self._sink = sink
        self._edit_rate = edit_rate
        self._text = ""
        self._shown: dict[int, str] = {}
        self._edited: dict[int, float] = {}
        self._grown = asyncio.Event()
        self._deleted = False
        self._unreachable = False
        self._worker: asyncio.Task[None] | None = None
        self._editing = asyncio.Lock()

    async def push(self, delta: str) -> None:
        """More of the reply. Never waits for Discord; raises ReplyGone once the message was deleted."""
        if self._deleted:
            raise ReplyDeleted()
        self._text += delta
        self._grown.set()
        if self._worker is None:
            self._edit_rate.num_running += 1
            self._worker = asyncio.create_task(self._stream(), name="reply-edits")

    async def finish(self, text: str) -> None:
        """Show the finished reply, exactly, whatever it takes. Raises ReplyGone if its message was deleted."""
        await self._stop()
        if self._deleted:
            raise ReplyDeleted()
        messages, file = final_messages(text)
        for index, message in enumerate(messages):
            attached = file if index == len(messages) - 1 else None
            if not self._unreachable:
                await self._deliver(index, message, attached)
            if self._unreachable:
                await self._sink.send_fallback(messages[index:], file)
                return
        for index in range(len(messages), len(self._shown)):
            await self._sink.delete(index)

    async def cancel(self) -> None:
        """Stop editing; what stands there stays."""
        await self._stop()

    async def _stream(self) -> None:
        await asyncio.sleep(_FIRST_EDIT)
        while True:
            await self._grown.wait()
            self._grown.clear()
            for index, text in enumerate(partial_messages(self._text)):
                if self._shown.get(index) == text:
                    continue
                try:
                    await self._show(index, text, live=True)
                except MessageDeleted:
                    self._deleted = True
                    return
                except SinkUnreachable:
                    self._unreachable = True
                    return
                except Exception:
                    log.debug("an edit was dropped; a newer one follows", exc_info=True)
                    self._grown.set()
                    break

    async def _deliver(self, index: int, text: str, file: str | None) -> None:
        """The final state of one message: not given up before the surface is."""
        for attempt in range(_RETRIES):
            try:
                await self._show(index, text, live=False, file=file)
                return
            except MessageDeleted:
                raise ReplyDeleted() from None
            except SinkUnreachable:
                break
            except Exception as error:
                log.warning("the final text could not be shown yet", attempt=attempt + 1, error=str(error))
                await asyncio.sleep(2.0**attempt)
        self._unreachable = True

    async def _show(self, index: int, text: str, *, live: bool, file: str | None = None) -> None:
        spacing = (
            self._edit_rate.interval if live else _SPACING
        )  # the end is awaited, however many others are being written
        wait = self._edited.get(index, 0.0) + spacing - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        async with self._editing:
            try:
                await self._sink.show(index, text, live=live, file=file)
            finally:
                self._edited[index] = time.monotonic()
        self._shown[index] = text

    async def _stop(self) -> None:
        """End the worker between two edits, never within one: an edit that overtakes the final one would undo it."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        self._edit_rate.num_running -= 1
        async with self._editing:
            worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker


def partial_messages(text: str) -> tuple[str, ...]:
    """The messages to show of a reply that is not finished: the last place is kept for what may still come."""
    return _visible_messages(text)[: MAX_MESSAGES - 1]


def final_messages(text: str) -> tuple[tuple[str, ...], str | None]:
    """The messages of a finished reply, and the whole of it as a file when it takes too many."""
    messages = _visible_messages(text)
    if not messages:
        return (NOTHING,), None
    if len(messages) <= MAX_MESSAGES:
        return messages, None
    return (*messages[: MAX_MESSAGES - 1], THE_REST), text


def _visible_messages(text: str) -> tuple[str, ...]:
    """Discord refuses a message without anything to see."""
    return tuple(chunk.text for chunk in split_message(text) if chunk.text.strip())
