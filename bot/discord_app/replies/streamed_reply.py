"""Shows one reply while it is generated: few edits while it grows, the exact text once it is finished.

Knows edit pacing and retries. Knows nothing of Discord's API: a `MessageSink` shows the messages, and its errors say
whether they were deleted (end the generation) or cannot be reached (deliver the reply another way).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from bot.discord_app.message_sink import DeliveryTaken, MessageDeleted, MessageSink, SinkClosed, SinkUnreachable
from bot.discord_app.rest.request_pace import Turn, Urgency
from bot.discord_app.splitting.reply_messages import final_messages, partial_messages
from bot.errors import ReplyDeleted
from bot.telemetry.metrics import EDIT_KINDS, EDITS
from bot.telemetry.tracing import span

log = structlog.get_logger(__name__)

MAX_EDITS_PER_SECOND = 40.0
"""For all replies of this process together."""
_FIRST_EDIT_DELAY = 0.25  # seconds; a reply that is finished by then takes a single edit
ANNOUNCE_AFTER = 2.0
"""Seconds without text after which a reply says what it waits for."""
ANNOUNCE_INTERVAL = 5.0
"""Seconds between two such lines."""
_EDIT_INTERVAL = 1.0  # seconds between two edits of one message that grows
_MAX_ATTEMPTS = 4


class EditRate:
    """Keeps the edits of all running replies together below MAX_EDITS_PER_SECOND."""

    def __init__(self) -> None:
        self.num_running = 0

    @property
    def interval(self) -> float:
        """Seconds to leave before another edit of a message that grows."""
        return max(_EDIT_INTERVAL, self.num_running / MAX_EDITS_PER_SECOND)


class StreamedReply:
    """Shows a reply while it is generated. Edits do not queue up: each sends the newest text at its time."""

    def __init__(self, sink: MessageSink, edit_rate: EditRate, *, prefix: str = "", num_messages: int = 0) -> None:
        """`prefix`: what stands above the reply. `num_messages`: how many messages show an earlier text of it."""
        self.grows = True
        """Whether the reply is shown while it is written; otherwise once, when it is complete."""
        self._sink = sink
        self._edit_rate = edit_rate
        self._prefix = prefix
        self._text = self._begun = prefix
        self._num_messages = num_messages
        self._shown: dict[int, str] = {}
        self._edited_at: dict[int, float] = {}
        self._has_new_text = asyncio.Event()
        self._closed: SinkClosed | None = None
        self._worker: asyncio.Task[None] | None = None
        self._announcer: asyncio.Task[None] | None = None
        self._is_over = False
        self._editing = asyncio.Lock()

    def begin_with(self, prefix: str, begun: str = "") -> None:
        """Set the prefix and the beginning of the reply, and drop the text so far, which was no answer."""
        self._prefix = prefix
        self._text = self._begun = prefix + begun

    def announce(self, status: Callable[[], str | None]) -> None:
        """Show this status below the prefix while no text comes, from ANNOUNCE_AFTER seconds on. None ends it."""
        if self._announcer is None and not self._is_over:
            self._announcer = asyncio.create_task(self._announce(status), name="reply-status")

    async def push(self, delta: str) -> None:
        """Append text to the reply. Never waits for Discord; raises ReplyDeleted once the message was deleted."""
        self._raise_if_deleted()
        self._text += delta
        self._has_new_text.set()
        if self._worker is None and self.grows:
            self._edit_rate.num_running += 1
            self._worker = asyncio.create_task(self._edit_loop(), name="reply-edits")

    async def finish(self, text: str) -> None:
        """Show exactly this text, by the fallback if need be. Raises ReplyDeleted if the message was deleted."""
        await self._stop()
        self._raise_if_deleted()
        messages, file = final_messages(text, self._prefix)
        await self.finish_messages(messages, file)

    async def finish_messages(self, messages: Sequence[str], file: str | None, *, first: int = 0) -> None:
        """Show these messages, from message `first` on; those before it are shown already."""
        for index in range(first + len(messages), max(self._num_messages, len(self._shown))):
            await self._sink.delete(index)
        for position, message in enumerate(messages):
            last = position == len(messages) - 1
            if self._closed is None:
                await self._deliver(first + position, message, file if last else None, last=last)
            self._raise_if_deleted()
            if isinstance(self._closed, DeliveryTaken):
                return
            if isinstance(self._closed, SinkUnreachable):
                await self._sink.send_fallback(messages[position:], file, first=first + position)
                return

    async def cancel(self) -> None:
        """Stop editing and leave the messages as they are."""
        await self._stop()

    def _raise_if_deleted(self) -> None:
        if isinstance(self._closed, MessageDeleted):
            raise ReplyDeleted()

    async def _announce(self, status: Callable[[], str | None]) -> None:
        await asyncio.sleep(ANNOUNCE_AFTER)
        announced = ""
        while self._worker is None and (text := status()) is not None:
            if text != announced:
                try:
                    await self._show_status(text)
                    announced = text
                except SinkClosed as closed:
                    self._closed = closed
                    return
                except Exception:
                    log.debug("a status was not shown", exc_info=True)
            await asyncio.sleep(ANNOUNCE_INTERVAL)

    async def _show_status(self, status: str) -> None:
        text = self._text if self.grows else self._begun
        text = text if not text or text.endswith("\n") else text + "\n"
        for index, message in enumerate(partial_messages(text + status)):
            if self._shown.get(index) == message:
                continue
            async with self._sink.turn(index, Urgency.STATUS) as turn, self._editing:
                if self._worker is not None or self._is_over:
                    return
                with _counted("status"):
                    await self._sink.show(index, message, live=True, turn=turn)
                self._shown[index] = message

    async def _edit_loop(self) -> None:
        await asyncio.sleep(_FIRST_EDIT_DELAY)
        while True:
            await self._has_new_text.wait()
            self._has_new_text.clear()
            for index, text in enumerate(partial_messages(self._text)):
                if self._shown.get(index) == text:
                    continue
                try:
                    await self._show_newest(index)
                except SinkClosed as closed:
                    self._closed = closed
                    return
                except Exception:
                    log.debug("an edit was dropped; a newer one follows", exc_info=True)
                    self._has_new_text.set()
                    break

    async def _deliver(self, index: int, text: str, file: str | None, *, last: bool) -> None:
        """Show the final state of one message, with retries; set `_closed` if none succeeds."""
        for attempt in range(_MAX_ATTEMPTS):
            if attempt:
                await asyncio.sleep(2.0 ** (attempt - 1))
            try:
                await self._show_final(index, text, file, last=last)
                return
            except SinkClosed as closed:
                self._closed = closed
                return
            except Exception as error:
                # Without the error's text, which may quote a URL that contains a token.
                log.warning("the final text could not be shown yet", attempt=attempt + 1, error=type(error).__name__)
        if await self._sink.postpone():
            self._closed = DeliveryTaken("a later attempt shows it")
        else:
            self._closed = SinkUnreachable("no attempt succeeded")

    async def _show_newest(self, index: int) -> None:
        """Show what this message has grown to by the time at which it may be edited."""
        urgency = Urgency.LIVE if index in self._edited_at else Urgency.FIRST
        await self._wait_for_interval(index)
        async with self._sink.turn(index, urgency) as turn:
            texts = partial_messages(self._text)
            if index < len(texts):
                await self._show(index, texts[index], live=True, turn=turn)

    async def _show_final(self, index: int, text: str, file: str | None, *, last: bool) -> None:
        # No interval: it comes once, a member waits for it, and the sink's turns keep to Discord's limits.
        async with self._sink.turn(index, Urgency.FINAL) as turn:
            await self._show(index, text, live=False, last=last, file=file, turn=turn)

    async def _wait_for_interval(self, index: int) -> None:
        wait = self._edited_at.get(index, 0.0) + self._edit_rate.interval - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)

    async def _show(
        self, index: int, text: str, *, live: bool, last: bool = False, file: str | None = None, turn: Turn | None
    ) -> None:
        async with self._editing:
            try:
                with _counted("live" if live else "final"):
                    await self._sink.show(index, text, live=live, last=last, file=file, turn=turn)
            finally:
                self._edited_at[index] = time.monotonic()
        self._shown[index] = text

    async def _stop(self) -> None:
        """Cancel both tasks between two edits, never within one: Discord might apply that edit after the final one."""
        self._is_over = True
        tasks = [task for task in (self._worker, self._announcer) if task is not None]
        if self._worker is not None:
            self._edit_rate.num_running -= 1
        self._worker = self._announcer = None
        if not tasks:
            return
        async with self._editing:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_EDITS = {kind: (EDITS.labels(kind, "shown"), EDITS.labels(kind, "failed")) for kind in EDIT_KINDS}


@contextmanager
def _counted(kind: str) -> Iterator[None]:
    """Count one attempt to show something; one that was cancelled counts as neither."""
    shown, failed = _EDITS[kind]
    with span(f"show {kind}"):
        try:
            yield
        except Exception:
            failed.inc()
            raise
    shown.inc()
