"""Keeps what a guild does not want out of one reply: while it is shown, and when it is complete.

Knows the guild's filter and the reply's control; does not know what is kept out, nor where the reply is shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from bot.chat.reply.generation import GeneratedReply
from bot.chat.reply.reply_control import ReplyControl
from bot.chat.requests import PendingTurn
from bot.errors import ReplyFiltered
from bot.safety.content import ContentFilter, replacement
from bot.safety.stream import StreamFilter
from models.queries.dialogs.pairs import FILTERED

log = structlog.get_logger(__name__)

OnDelta = Callable[[str], Awaitable[None]]


class LiveFilter:
    """The filter of one reply; without a guild's filter it lets everything through."""

    def __init__(self, content_filter: ContentFilter | None, on_delta: OnDelta, control: ReplyControl) -> None:
        """`on_delta`: shows a piece. `control`: ends the reply, once it is known that it will be kept out."""
        self._filter = content_filter
        self._on_delta = on_delta
        self._control = control
        self._stream: StreamFilter | None = None

    def hides(self, text: str) -> bool:
        """Whether a text that nobody has shown yet must not be shown."""
        return self._filter is not None and self._filter.has_word(text)

    def begin(self, before: str) -> None:
        """The reply begins. `before`: the text of it that is shown already."""
        self._stream = None if self._filter is None else self._filter.stream(before)

    def restart(self) -> None:
        """What came so far was no answer, and is not shown any more."""
        if self._stream is not None:
            self._stream.restart()

    async def push(self, piece: str) -> None:
        """One more piece came: show what may be shown now."""
        if self._stream is not None:
            piece = self._stream.push(piece)
            if self._stream.matched:
                self._control.interrupt("filtered")
                return
        if piece and (self._filter is None or self._filter.shows_live):
            await self._on_delta(piece)

    async def judged(self, turn: PendingTurn, reply: GeneratedReply) -> GeneratedReply:
        """The complete reply, or what stands in its place. Raises ReplyFiltered if it only goes on with another one."""
        if self._filter is None:
            return reply
        found = self._stream is not None and self._stream.matched
        if not found and not await self._filter.keeps_out_reply(turn.prefix + reply.text):
            return reply
        log.info("a reply was kept out", turn=turn.turn_id)
        if turn.prefix:
            raise ReplyFiltered()
        return replace(reply, text=replacement(), finish_reason=FILTERED)
